// SPDX-License-Identifier: Apache-2.0

import CForkCore

extension ForkingServer {
    func begin(taking signals: Set<Signal>?, control: SocketAddress? = nil) throws(ForkingError) {
        try childOptions.tryIdentity()
        try children.contain(childOptions)
        try loop.begin(taking: signals, allowsThreads: configuration.allowsThreads, control: control)
        idleSince.value = .now
    }

    /// Goes to a step of stopping, unless it or a harder one was reached.
    func advance(to step: StopStep) {
        guard loop.isAhead(step) else { return }
        loop.abandonSuccessor()
        if step == .drain, takesWaiting, !loop.isHandedOver, configuration.blockOnClose, configuration.drain > .zero {
            holdWaiting()
            turnAway(alsoHeld: false)
        } else {
            turnAway(alsoHeld: true)
        }
        hooks.observe(.stopping(step))
        if configuration.blockOnClose {
            loop.enter(step, drain: configuration.drain, killAfter: configuration.killAfter)
        } else {
            loop.tellManager("STOPPING=1")
            loop.phase = .over
        }
    }

    /// The loop cannot go on. No child is left behind.
    func abandonShip() {
        turnAway(alsoHeld: true)
        loop.abandonShip()
    }

    /// Takes no more clients.
    private func turnAway(alsoHeld: Bool) {
        listeners.close()
        guard alsoHeld else { return }
        held.closeAll()
        heldDatagram = nil
    }

    /// Accepts all that wait, and holds them.
    private func holdWaiting() {
        switch service {
        case .datagrams, .lending: break
        case .connections: held.takeWaiting(at: listeners.all, leaving: 8)
        case .programs:
            let forChildren = Int(FORKCORE_BERTHS) + children.limit - children.count
            held.takeWaiting(at: listeners.all, leaving: 8 + forChildren)
        }
    }
}
