// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// What the servers of this library have in common: what they wait for, the signals they take, and how they end.
///
/// Parent. A server's turn is its own: wait, then signals, exits, time, and last what it is there for.
final class ServerLoop {
    let children: ChildTable
    let stopSwitch: StopSwitch
    var phase = Phase.serving
    private(set) var isRunning = false
    private var signals: SignalDescriptor?
    /// Signals that a write can raise, and that this server ignores meanwhile.
    private var ignored = SignalSet()
    private var startedAt = Instant.now
    private var control: ControlSocket?
    /// The control socket's, while it is waited for, or -1: a number, as in each turn it is looked at.
    private var controlDescriptor: Int32 = -1
    /// Nobody could be accepted there; it is tried again then.
    private var controlPausedUntil: Instant?

    init(_ children: ChildTable) throws(ForkingError) {
        self.children = children
        stopSwitch = try StopSwitch()
    }

    // MARK: From begin to end

    /// - Parameters:
    ///   - taken: signals to take as events; nil leaves all of them alone.
    ///   - control: where to tell of the server; nil: nowhere.
    func begin(
        taking taken: Set<Signal>?, allowsThreads: Bool = false, control: SocketAddress? = nil
    ) throws(ForkingError) {
        try requireNotRunning()
        guard phase == .serving else { throw .invalid("this server was stopped: make a new one") }
        if !allowsThreads { try Threads.requireOne() }
        let opened = try ControlSocket.open(on: control)
        if let taken { signals = try SignalDescriptor(SignalSet(Self.takeable(taken))) }
        self.control = opened
        watchControl()
        ignoreWriteSignals()
        startedAt = .now
        isRunning = true
    }

    func end() {
        isRunning = false
        signals = nil
        if children.count == 0 { children.endContainment() }
        endControl()
        ParentOnly.stopIgnoring(ignored)
        forkcore_default_signals(ignored.rawValue)
        ignored = []
    }

    /// A reader that has gone, or a limit of the size of files, is an error of the write, and no end of the server's. In
    /// children SIGPIPE stays ignored, as a connection's writes throw; a file is their own affair.
    private func ignoreWriteSignals() {
        ignored = SignalSet(rawValue: forkcore_ignore_write_signals())
        ParentOnly.ignore(ignored.subtracting([.brokenPipe]))
    }

    /// The loop cannot be run from within itself.
    func requireNotRunning() throws(ForkingError) {
        guard !isRunning else { throw .invalid("this server is serving: a hook can only ask it to stop()") }
        children.requireParent()
    }

    /// Takes no more of what it serves, and waits for its children to end: nothing but `turn` goes on.
    func close(_ turn: () throws(ForkingError) -> Void) throws(ForkingError) {
        try requireNotRunning()
        isRunning = true
        defer { isRunning = false }
        stopSwitch.stop()
        while phase != .over { try turn() }
    }

    /// Since it began.
    var age: Duration { .now - startedAt }

    // MARK: The control socket

    static func checkControl(_ address: SocketAddress?) throws(ForkingError) {
        guard let address, address.path == nil else { return }
        throw .invalid("control is \(address), and must be a Unix socket's address, such as unix:/run/x.control")
    }

    /// Answers who has asked. Nobody there can stop the server: when none can be accepted, they wait a moment.
    func answer(from source: some StatusSource) {
        do throws(ForkingError) {
            try control?.answer(from: source)
            // However many ask, and whoever may: an abstract name is open to all.
            controlPausedUntil = .now + Self.pauseBetweenAnswers
        } catch {
            controlPausedUntil = .now + Admission.pause
        }
        controlDescriptor = -1
    }

    /// This server has taken another's place: it answers from now on.
    func takeControlOver() {
        control?.takeOver()
        watchControl()
    }

    /// What another server is to answer on.
    var handedOver: Int32? { control?.descriptor }

    /// Another has taken this server's place.
    func leaveControl() {
        control?.leave()
        endControl()
    }

    private static let pauseBetweenAnswers = Duration.milliseconds(20)

    private func watchControl() {
        controlPausedUntil = nil
        controlDescriptor = control.map { $0.isInherited ? -1 : $0.descriptor } ?? -1
    }

    private func endControl() {
        control = nil
        watchControl()
    }

    // MARK: Signals

    /// Throws unless all of `signals` can be taken as events: SIGKILL and SIGSTOP never are, SIGCHLD is the table's.
    static func checkTakeable(_ signals: Set<Signal>) throws(ForkingError) {
        let untakeable: Set<Signal> = [.kill, .stop, .child]
        for signal in signals where untakeable.contains(signal) || !(1...64).contains(signal.rawValue) {
            throw .invalid("\(signal) cannot be one of the signals that a server takes")
        }
    }

    /// The signals that a server stops by, and those of its hooks: each can mean one thing only.
    static func signals(stopping: Set<Signal>, hooks: Dictionary<Signal, () -> Void>.Keys) throws(ForkingError)
        -> Set<Signal>
    {
        if let signal = stopping.first(where: hooks.contains) {
            throw .invalid("\(signal) is among both stopSignals and hooks.signals")
        }
        return stopping.union(hooks)
    }

    private static func takeable(_ signals: Set<Signal>) throws(ForkingError) -> Set<Signal> {
        try checkTakeable(signals)
        for signal in signals {
            guard let thread = ThreadMasks.firstThatTakes(signal) else { continue }
            throw .invalid(
                "thread \(thread) of this process does not block \(signal), and would get it in the server's place: "
                    + "block it before the first thread starts, or take it out of stopSignals")
        }
        return signals
    }

    /// Those that are pending. They are all taken first: what is done for one may end the loop.
    func takeSignals() -> [Signal] {
        var taken: [Signal] = []
        signals?.take { signal, _ in taken.append(signal) }
        return taken
    }

    // MARK: Waiting

    struct Ready: OptionSet {
        var rawValue: UInt32
        static let signal = Ready(rawValue: 1)
        static let stop = Ready(rawValue: 2)
        static let children = Ready(rawValue: 4)
        /// What the server itself waits for.
        static let work = Ready(rawValue: 8)
        /// What else it waits for.
        static let other = Ready(rawValue: 16)
        /// Somebody asks for the server's status.
        static let control = Ready(rawValue: 32)
    }

    /// Waits for something to do, but no longer than `until`.
    ///
    /// - Parameters:
    ///   - work: the descriptor of what the server is there for, or -1.
    ///   - other: that of something else, or -1.
    ///   - isBusy: there is something to do already: only looks.
    func wait(for work: Int32, or other: Int32 = -1, until: Instant?, isBusy: Bool) throws(ForkingError) -> Ready {
        if let end = controlPausedUntil, end <= .now { watchControl() }
        let polled: InlineArray<6, Int32> = [
            signals?.rawValue ?? -1, stopSwitch.descriptor.rawValue, children.descriptor.rawValue, work, other,
            controlDescriptor,
        ]
        // A hook may have collected the last child, after which nothing would wake us.
        let isOver = phase != .serving && children.isDeserted
        let next = earlier(earlier(phase.deadline, until), controlPausedUntil)
        let timeout = isBusy || isOver ? 0 : next.map { max(0, ($0 - .now).inNanoseconds) } ?? -1
        var ready: UInt32 = 0
        let code = polled.span.withUnsafeBufferPointer {
            forkcore_wait_readable($0.baseAddress, $0.count, timeout, &ready)
        }
        try check(code, "ppoll")
        return Ready(rawValue: ready)
    }

    // MARK: Stopping

    /// Whether `step` is still to come: neither it nor a harder one was reached.
    func isAhead(_ step: StopStep) -> Bool {
        switch phase {
        case .serving: true
        case .stopping(let current, _): step > current
        case .over: false
        }
    }

    /// Goes to a step of stopping that is still ahead. `drain` is how long the first may take.
    func enter(_ step: StopStep, drain: Duration, killAfter: Duration) {
        children.endsGroups = true
        children.sweep()
        switch step {
        case .drain:
            phase = .stopping(.drain, until: .now + drain)
        case .terminate:
            children.terminateAll()
            phase = .stopping(.terminate, until: .now + killAfter)
        case .kill:
            children.killAll()
            phase = .stopping(.kill, until: .now + Self.patienceWithTheKernel)
        }
    }

    /// What time brings to a server that stops: its end, or the next step, which is returned.
    ///
    /// - Parameter abandon: is told of those whom the kernel does not end.
    func keepTime(_ now: Instant, abandon: ([ProcessID]) -> Void) -> StopStep? {
        guard case .stopping(let step, let deadline) = phase else { return nil }
        if children.isDeserted {
            phase = .over
        } else if deadline <= now {
            guard step == .kill else { return phase.nextStep }
            abandon(children.children.map(\.pid))
            phase = .over
        }
        return nil
    }

    /// A process that was sent SIGKILL ends at once, unless it is stuck in the kernel.
    private static let patienceWithTheKernel = Duration.seconds(5)

    /// The loop cannot go on. No child is left behind.
    func abandonShip() {
        children.endsGroups = true
        children.killAll()
        _ = try? children.wait(atMost: Self.patienceWithTheKernel)
        phase = .over
    }
}
