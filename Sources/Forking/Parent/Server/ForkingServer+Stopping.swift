// SPDX-License-Identifier: Apache-2.0

import CForkCore

extension ForkingServer {
    func begin(taking signals: Set<Signal>?, control: SocketAddress? = nil) throws(ForkingError) {
        try childOptions.tryConfinement()
        try children.contain(childOptions)
        try loop.begin(taking: signals, allowsThreads: configuration.child.allowsThreads, control: control)
        idleSince.value = .now
    }

    func carryOut(_ stop: Lifecycle.Stop) {
        if stop.actions.contains(.abandonSuccessor) { loop.abandonSuccessor() }
        if stop.actions.contains(.acceptWaiting), takesWaiting {
            holdWaiting()
            stopAccepting(alsoHeld: false)
        } else {
            stopAccepting(alsoHeld: true)
        }
        tell(.stopping(stop.step))
        loop.carryOut(stop)
    }

    /// Called when the loop fails: kills all children and stops.
    func fail() {
        stopAccepting(alsoHeld: true)
        loop.fail()
    }

    /// Stops accepting clients.
    private func stopAccepting(alsoHeld: Bool) {
        listeners.close()
        guard alsoHeld else { return }
        held.closeAll()
        heldDatagram = nil
    }

    /// Accepts all clients that are in the listeners' queues, and holds them.
    private func holdWaiting() {
        switch service {
        case .datagrams, .lending: break
        case .connections: held.takeWaiting(at: listeners.all, leaving: 8)
        case .programs:
            let forChildren = Int(FORKCORE_SPAWN_SLOTS) + children.maxChildren - children.count
            held.takeWaiting(at: listeners.all, leaving: 8 + forChildren)
        }
    }
}
