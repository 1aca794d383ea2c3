// SPDX-License-Identifier: Apache-2.0

import CForkCore

extension ForkingServer {
    func begin(takingSignals: Bool = true) throws(ForkingError) {
        try requireNotRunning()
        guard phase == .serving else { throw .invalid("this server was stopped: make a new one") }
        if !configuration.childOptions.allowsThreads { try Threads.requireOne() }
        if takingSignals {
            signals = try SignalDescriptor(SignalSet(signalsToTake()))
        }
        ignoresSIGPIPE = forkcore_ignore_sigpipe()
        idleSince.value = .now
        isRunning = true
    }

    /// The loop cannot be run from within itself.
    func requireNotRunning() throws(ForkingError) {
        guard !isRunning else { throw .invalid("this server is serving: a hook can only ask it to stop()") }
        children.requireParent()
    }

    private func signalsToTake() throws(ForkingError) -> Set<Signal> {
        if let signal = configuration.stopSignals.first(where: { hooks.signals[$0] != nil }) {
            throw .invalid("\(signal) is among both stopSignals and hooks.signals")
        }
        let taken = configuration.stopSignals.union(hooks.signals.keys)
        try Configuration.checkTakeable(taken)
        for signal in taken {
            guard let thread = ThreadMasks.firstThatTakes(signal) else { continue }
            throw .invalid(
                "thread \(thread) of this process does not block \(signal), and would get it in the server's place: "
                    + "block it before the first thread starts, or take it out of stopSignals")
        }
        return taken
    }

    func end() {
        isRunning = false
        signals = nil
        if ignoresSIGPIPE { forkcore_default_sigpipe() }
    }

    /// Goes to a step of stopping, unless it or a harder one was reached.
    func advance(to step: StopStep) {
        if case .stopping(let current, _) = phase, current >= step { return }
        guard phase != .over else { return }
        hooks.observe(.stopping(step))
        listener = nil
        held = nil
        spares.dismiss()
        guard configuration.blockOnClose else {
            phase = .over
            return
        }
        children.endsGroups = true
        children.sweep()
        switch step {
        case .drain:
            phase = .stopping(.drain, until: .now + configuration.drain)
        case .terminate:
            children.terminateAll()
            phase = .stopping(.terminate, until: .now + configuration.childOptions.killAfter)
        case .kill:
            children.killAll()
            phase = .stopping(.kill, until: .now + Self.patienceWithTheKernel)
        }
    }

    /// A process that was sent SIGKILL ends at once, unless it is stuck in the kernel.
    private static let patienceWithTheKernel = Duration.seconds(5)

    /// The loop cannot go on. No child is left behind.
    func abandonShip() {
        listener = nil
        held = nil
        spares.dismiss()
        children.endsGroups = true
        children.killAll()
        _ = try? children.wait(atMost: Self.patienceWithTheKernel)
        phase = .over
    }
}
