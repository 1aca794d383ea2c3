// SPDX-License-Identifier: Apache-2.0

extension PreforkServer {
    /// Goes to a step of stopping, unless it or a harder one was reached.
    func advance(to step: StopStep) {
        guard loop.isAhead(step) else { return }
        hooks.observe(.stopping(step))
        nextLook = nil
        // Each is asked before the sockets stop: it shall not take that for an error.
        for index in workers.indices { workers[index].askToDrain() }
        if step > .drain { for worker in workers { worker.seat.askToDrain(atOnce: true) } }
        if !loop.isHandedOver {
            for shared in listeners { shared.listener.stopListening() }
            loop.abandonSuccessor()
        }
        listeners = []
        loop.enter(step, drain: configuration.drain, killAfter: configuration.killAfter)
    }
}
