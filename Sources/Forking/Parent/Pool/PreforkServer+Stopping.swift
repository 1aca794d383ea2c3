// SPDX-License-Identifier: Apache-2.0

import Synchronization

extension PreforkServer {
    func carryOut(_ stop: Lifecycle.Stop) {
        tell(.stopping(stop.step))
        policy.stop()
        let areServed = stop.actions.contains(.acceptWaiting) && canServeWaiting
        if areServed { for link in links.values { link.slot.offerLastClients() } }
        // Ask each worker before the sockets stop listening, so that no worker takes that for an error.
        for pid in links.keys { links[pid]?.askToDrain() }
        if stop.step > .drain { for link in links.values { link.slot.askToDrain(atOnce: true) } }
        if areServed {
            lastClients.take(at: listeners)
        } else {
            lastClients.close()
        }
        if stop.actions.contains(.abandonSuccessor) {
            for shared in listeners { shared.listener.stopListening() }
            loop.abandonSuccessor()
        }
        listeners = []
        if areServed { passOnLastClients(.now) }
        loop.carryOut(stop)
    }

    /// Whether workers can serve the clients in the queues of sockets on which no other process goes on to serve.
    private var canServeWaiting: Bool {
        links.values.contains { $0.slot.fields.takesFromQueue.load(ordering: .relaxed) }
    }

    /// Passes on as many of the clients that waited as the queue has room for.
    func passOnLastClients(_ now: Instant) {
        passOnPause.end()
        if lastClients.passOn() { passOnPause.begin(until: now + Admission.pause) }
    }
}
