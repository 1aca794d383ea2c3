// SPDX-License-Identifier: Apache-2.0

extension ForkingServer {
    func begin(taking signals: Set<Signal>?, control: SocketAddress? = nil) throws(ForkingError) {
        try loop.begin(taking: signals, allowsThreads: configuration.allowsThreads, control: control)
        try children.contain(configuration.childOptions)
        idleSince.value = .now
    }

    /// Goes to a step of stopping, unless it or a harder one was reached.
    func advance(to step: StopStep) {
        guard loop.isAhead(step) else { return }
        hooks.observe(.stopping(step))
        loop.abandonSuccessor()
        turnAway()
        if configuration.blockOnClose {
            loop.enter(step, drain: configuration.drain, killAfter: configuration.killAfter)
        } else {
            loop.tellManager("STOPPING=1")
            loop.phase = .over
        }
    }

    /// The loop cannot go on. No child is left behind.
    func abandonShip() {
        turnAway()
        loop.abandonShip()
    }

    /// Takes no more clients.
    private func turnAway() {
        listeners.close()
        held = nil
        spares.dismiss()
    }
}
