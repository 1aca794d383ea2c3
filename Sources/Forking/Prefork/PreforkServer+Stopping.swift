// SPDX-License-Identifier: Apache-2.0

extension PreforkServer {
    /// Goes to a step of stopping, unless it or a harder one was reached.
    func advance(to step: StopStep) {
        guard loop.isAhead(step) else { return }
        hooks.observe(.stopping(step))
        nextLook = nil
        let areServed = step == .drain && servesLastClients
        if areServed { for worker in workers { worker.seat.offerLastClients() } }
        // Each is asked before the sockets stop: it shall not take that for an error.
        for index in workers.indices { workers[index].askToDrain() }
        if step > .drain { for worker in workers { worker.seat.askToDrain(atOnce: true) } }
        if areServed {
            lastClients.take(at: listeners)
        } else {
            lastClients.close()
        }
        if !loop.isHandedOver {
            for shared in listeners { shared.listener.stopListening() }
            loop.abandonSuccessor()
        }
        listeners = []
        if areServed { passOnLastClients(.now) }
        loop.enter(step, drain: configuration.drain, killAfter: configuration.killAfter)
    }

    /// Whether those who wait now are still served: by workers, who take them, on sockets that nobody goes on with.
    private var servesLastClients: Bool {
        !loop.isHandedOver && configuration.drain > .zero
            && workers.contains { $0.seat.lines.pointee.takesFromQueue.load(ordering: .relaxed) }
    }

    /// Passes on as many of those who waited as there is room for.
    func passOnLastClients(_ now: Instant) {
        passOnAt = lastClients.passOn() ? now + Admission.pause : nil
    }
}
