// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// What the servers of this library have in common: what they wait for, the signals they take, and how they end.
///
/// Parent. A server's turn is its own: wait, then signals, exits, time, and last what it is there for.
final class ServerLoop {
    let children: ChildTable
    let stopSwitch: StopSwitch
    var life: Lifecycle
    /// Those that could not be ended.
    private(set) var abandoned: [ProcessID] = []
    private var signals: SignalDescriptor?
    /// What guards the server's own writes.
    private var writeGuard: UInt64 = 0
    private var startedAt = Instant.now
    private var control: ControlSocket?
    /// The control socket's, while it is waited for, or -1: a number, as in each turn it is looked at.
    private var controlDescriptor: Int32 = -1
    /// Until it is waited for again.
    private var controlPause = Pause()
    /// Nil where no service manager wants to be told.
    var reports: ManagerReports?
    private(set) var isManaged = false
    /// What SIGUSR2 starts, from where this program was started.
    let executable = Executable.own
    var successor: Successor?

    init(_ children: ChildTable, _ life: Lifecycle) throws(ForkingError) {
        self.children = children
        self.life = life
        stopSwitch = try StopSwitch()
    }

    // MARK: From begin to end

    /// - Parameters:
    ///   - taken: signals to take as events; nil leaves all of them alone, and the service manager to somebody else.
    ///   - control: where to tell of the server; nil: nowhere.
    func begin(
        taking taken: Set<Signal>?, allowsThreads: Bool = false, control: SocketAddress? = nil
    ) throws(ForkingError) {
        try life.requireRunnable()
        children.requireParent()
        if !allowsThreads { try Threads.requireOne() }
        if taken != nil { reports = ManagerReports(.take(), isSuccessor: Predecessor.isThere) }
        isManaged = reports != nil
        let opened = try ControlSocket.open(on: control)
        if let taken { signals = try SignalDescriptor(SignalSet(Self.takeable(taken))) }
        self.control = opened
        watchControl()
        // A reader that has gone, or a limit of the size of files, is an error of the write, and no end of the
        // server's.
        writeGuard = forkcore_guard_writes()
        startedAt = .now
        life.run()
    }

    func end() {
        life.pause()
        signals = nil
        if children.count == 0 { children.endContainment() }
        endControl()
        successor?.abandon()
        successor = nil
        forkcore_unguard_writes(writeGuard)
        writeGuard = 0
    }

    /// The loop cannot be run from within itself.
    func requireNotRunning() throws(ForkingError) {
        try life.requireNotRunning()
        children.requireParent()
    }

    /// Takes no more of what it serves, and waits for its children to end: nothing but `turn` goes on.
    func close(_ turn: () throws(ForkingError) -> Void) throws(ForkingError) {
        try requireNotRunning()
        life.run()
        defer { life.pause() }
        stopSwitch.stop()
        while life.state != .stopped { try turn() }
        try checkAbandoned()
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
            controlPause.begin(until: .now + Self.pauseBetweenAnswers)
        } catch {
            controlPause.begin(until: .now + Admission.pause)
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
        controlPause.end()
        controlDescriptor = control.map { $0.isInherited ? -1 : $0.descriptor } ?? -1
    }

    private func endControl() {
        control = nil
        watchControl()
    }

    // MARK: Signals

    /// SIGHUP and SIGQUIT would end a server at once, with all its clients, and leave its files: where they have no
    /// other meaning they drain, as SIGTERM does. One that is ignored stays so: nohup(1).
    static func lastResort(_ signals: Set<Signal>, hooks: some Collection<Signal>) -> Set<Signal> {
        let ignored = SignalSet(rawValue: forkcore_signals_ignored(SignalSet(signals).rawValue))
        return signals.filter {
            !hooks.contains($0) && !ignored.contains([$0]) && ThreadMasks.firstThatTakes($0) == nil
        }
    }

    /// Throws unless all of `signals` can be taken as events: SIGKILL and SIGSTOP never are, SIGCHLD is the table's.
    static func checkTakeable(_ signals: Set<Signal>) throws(ForkingError) {
        let untakeable: Set<Signal> = [.kill, .stop, .child]
        for signal in signals where untakeable.contains(signal) || !(1...64).contains(signal.rawValue) {
            throw .invalid("\(signal) cannot be one of the signals that a server takes")
        }
    }

    /// The signals that a server stops by, those that it has another use for, and those of its hooks: each can mean one
    /// thing only.
    static func signals(
        stopping: Set<Signal>, own: Set<Signal>, hooks: some Collection<Signal>
    ) throws(ForkingError) -> Set<Signal> {
        if let signal = own.first(where: hooks.contains) {
            throw .invalid("\(signal) has a meaning of its own for this server, and cannot be one of hooks.signals")
        }
        if let signal = stopping.first(where: hooks.contains) {
            throw .invalid("\(signal) is among both stopSignals and hooks.signals")
        }
        return stopping.union(own).union(hooks)
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
        /// Somebody asks for the server's status.
        static let control = Ready(rawValue: 16)
        /// A predecessor or a successor has said something, or has ended.
        static let upgrade = Ready(rawValue: 32 | 64)
    }

    /// Waits for something to do, but no longer than `until`.
    ///
    /// - Parameters:
    ///   - work: the descriptor of what the server is there for, or -1.
    ///   - isBusy: there is something to do already: only looks.
    ///   - isHolding: somebody is still to be served.
    func wait(for work: Int32, until: Instant?, isBusy: Bool, isHolding: Bool = false) throws(ForkingError) -> Ready {
        if controlPause.isOver(at: .now) { watchControl() }
        let (readiness, end) = upgradeDescriptors
        let polled: InlineArray<7, Int32> = [
            signals?.rawValue ?? -1, stopSwitch.descriptor.rawValue, children.descriptor.rawValue, work,
            controlDescriptor, readiness, end,
        ]
        // A hook may have collected the last child, after which nothing would wake us.
        let isOver = life.state != .serving && isEmpty && !isHolding
        let mine = earlier(earlier(controlPause.until, reports?.next), successor?.deadline)
        let next = earlier(earlier(life.deadline, until), mine)
        let rest = isBusy || isOver ? .zero : next.map { $0 - .now }
        return Ready(rawValue: try waitUntilReadable(polled, atMost: rest))
    }

    // MARK: Stopping

    /// Does what is not the server's own of a step of stopping.
    func carryOut(_ stop: Lifecycle.Stop) {
        announce(stop)
        guard stop.rest != nil else { return }
        children.sweep()  // who has ended by himself was not told to: what he left behind is left alone
        if stop.actions.contains(.terminateChildren) { children.terminateAll() }
        if stop.actions.contains(.killChildren) { children.killAll() }
        life.begin(stop.step, at: .now)
    }

    /// Whether nothing is left to wait for, nor to tell of: a step's sweep may have found the last end. That another
    /// process is the main one now the manager must have heard before this one ends.
    private var isEmpty: Bool {
        children.isLifeless && !children.hasReports && (life.standing != .replaced || reports?.isDone ?? true)
    }

    /// What time has brought, in each turn.
    ///
    /// - Parameter isHolding: somebody is still to be served.
    func fireTimers(_ now: Instant, isHolding: Bool = false) -> Lifecycle.Due? {
        guard life.deadline != nil else { return nil }
        let due = life.fireTimers(now, isEmpty: isEmpty && !isHolding)
        if due == .abandonChildren { abandoned = children.children.map(\.pid) }
        return due
    }

    /// Throws if somebody is left, now that all is over.
    func checkAbandoned() throws(ForkingError) {
        if !abandoned.isEmpty { throw .notEnded(abandoned) }
    }

    /// The loop cannot go on. No child is left behind.
    func fail() {
        children.killAll()
        _ = try? children.wait(atMost: Lifecycle.patienceWithKernel)
        life.fail()
    }
}
