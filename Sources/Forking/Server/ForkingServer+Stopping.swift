// SPDX-License-Identifier: Apache-2.0

import CForkCore

extension ForkingServer {
    func begin(takingSignals: Bool = true) throws(ForkingError) {
        guard phase == .serving else { throw .invalid("this server was stopped: make a new one") }
        if !configuration.childOptions.allowsThreads { try Threads.requireOne() }
        if takingSignals {
            let taken = configuration.stopSignals.union(hooks.signals.keys)
            try Configuration.checkTakeable(taken)
            signals = try SignalDescriptor(SignalSet(taken))
        }
        forkcore_ignore_sigpipe(true, &ignoredSIGPIPE)
        idleSince = .now
    }

    func end() {
        signals = nil
        var ignored = false
        if !ignoredSIGPIPE { forkcore_ignore_sigpipe(false, &ignored) }
    }

    /// Goes to a step of stopping, unless it or a harder one was reached.
    func advance(to step: StopStep) {
        if case .stopping(let current, _) = phase, current >= step { return }
        guard phase != .over else { return }
        hooks.observe(.stopping(step))
        listener = nil
        guard configuration.blockOnClose else {
            phase = .over
            return
        }
        children.endsGroups = true
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
        children.endsGroups = true
        children.killAll()
        _ = try? children.wait(until: Self.patienceWithTheKernel)
        phase = .over
    }
}
