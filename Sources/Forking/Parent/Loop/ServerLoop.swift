// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// What all servers of this library share: what they poll, the signals that they take, and how they stop.
///
/// Parent, on the one thread that serves. Each server has a turn of its own: wait, then signals, exits, timers, and last its own work.
final class ServerLoop {
    let children: ChildTable
    let stopSwitch: StopSwitch
    var life: Lifecycle
    /// The children that could not be ended.
    private(set) var abandoned: [ProcessID] = []
    private var signals: SignalDescriptor?
    /// What `end()` needs to undo `forkcore_guard_writes`.
    private var writeGuard: UInt64 = 0
    private var startedAt = Instant.now
    private var control: ControlSocket?
    /// The control socket's descriptor while it is polled, or -1. Stored as a number because every turn reads it.
    private var controlDescriptor: Int32 = -1
    /// The pause until the control socket is polled again.
    private var controlPause = Pause()
    /// Nil if no service manager expects messages.
    var reports: ManagerReports?
    private(set) var isManaged = false
    /// The program that SIGUSR2 starts: this one, from the path that it was started from.
    let executable = Executable.own
    var successor: Successor?

    init(_ children: ChildTable, _ life: Lifecycle) throws(ForkingError) {
        self.children = children
        self.life = life
        stopSwitch = try StopSwitch()
    }

    // MARK: From begin to end

    /// - Parameters:
    ///   - taken: signals to take as events; nil: takes none, and sends nothing to the service manager.
    ///   - control: the address of the control socket; nil: none.
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
        // A write to a pipe without a reader, or beyond the limit of a file's size, should fail with an error, and not
        // end the server.
        writeGuard = forkcore_guard_writes()
        startedAt = .now
        life.run()
    }

    /// Called when the server serves: reports that to the manager and to the predecessor, which then drains.
    func noteServing() {
        life.becomeReady(hasPredecessor: Predecessor.isThere)
        reports?.say("READY=1", .now)
        Predecessor.tellReady()
        takeControlOver()
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

    /// Throws if the loop is running: it cannot be run from within itself.
    func requireNotRunning() throws(ForkingError) {
        try life.requireNotRunning()
        children.requireParent()
    }

    /// Stops the server, and calls `turn` until its children have ended.
    func close(_ turn: () throws(ForkingError) -> Void) throws(ForkingError) {
        try requireNotRunning()
        life.run()
        defer { life.pause() }
        stopSwitch.stop()
        while life.state != .stopped { try turn() }
        try checkAbandoned()
    }

    /// The time since the server began.
    var age: Duration { .now - startedAt }

    // MARK: The control socket

    static func checkControl(_ address: SocketAddress?) throws(ForkingError) {
        guard let address, address.path == nil else { return }
        throw .invalid("control is \(address), and must be a Unix socket's address, such as unix:/run/x.control")
    }

    /// Answers clients of the control socket. An error there does not stop the server: the clients wait for a moment.
    func answer(from source: some StatusSource) {
        do throws(ForkingError) {
            try control?.answer(from: source)
            // The pause limits the cost of many clients: any user can connect to an abstract name.
            controlPause.begin(until: .now + Self.pauseBetweenAnswers)
        } catch {
            controlPause.begin(until: .now + Admission.pause)
        }
        controlDescriptor = -1
    }

    /// Called when this server has replaced its predecessor: from now on it answers on the control socket.
    func takeControlOver() {
        control?.takeOver()
        watchControl()
    }

    /// The control socket to hand over to a successor.
    var handedOver: Int32? { control?.descriptor }

    /// Called when a successor has replaced this server.
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

    /// Returns those of `signals` that drain the server as SIGTERM does: SIGHUP and SIGQUIT would otherwise end it at
    /// once, with all its clients, and leave its sockets' files. Excludes those that a hook or another thread takes,
    /// and those that are ignored: nohup(1).
    static func lastResort(_ signals: Set<Signal>, hooks: some Collection<Signal>) -> Set<Signal> {
        let ignored = SignalSet(rawValue: forkcore_signals_ignored(SignalSet(signals).rawValue))
        return signals.filter {
            !hooks.contains($0) && !ignored.contains([$0]) && ThreadMasks.firstThatTakes($0) == nil
        }
    }

    /// Throws unless all of `signals` can be taken as events: SIGKILL and SIGSTOP cannot, and SIGCHLD belongs to the
    /// table.
    static func checkTakeable(_ signals: Set<Signal>) throws(ForkingError) {
        let untakeable: Set<Signal> = [.kill, .stop, .child]
        for signal in signals where untakeable.contains(signal) || !(1...64).contains(signal.rawValue) {
            throw .invalid("\(signal) cannot be one of the signals that a server takes")
        }
    }

    /// The signals that a server takes: those that stop it, those that it uses itself, and those of its hooks. Each can
    /// have one meaning only.
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

    /// The pending signals. All are taken before the first is handled, because that may end the loop.
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
        /// The server's own descriptor.
        static let work = Ready(rawValue: 8)
        /// A client asks for the server's status.
        static let control = Ready(rawValue: 16)
        /// The predecessor or a successor has sent something, or has ended.
        static let upgrade = Ready(rawValue: 32 | 64)
    }

    /// Waits for an event, but not beyond `until`.
    ///
    /// - Parameters:
    ///   - work: the server's own descriptor, or -1.
    ///   - isBusy: whether there is work already: then it polls without waiting.
    ///   - isHolding: whether clients are held that must still be served.
    func wait(for work: Int32, until: Instant?, isBusy: Bool, isHolding: Bool = false) throws(ForkingError) -> Ready {
        if controlPause.isOver(at: .now) { watchControl() }
        let (readiness, end) = upgradeDescriptors
        let polled: InlineArray<7, Int32> = [
            signals?.rawValue ?? -1, stopSwitch.descriptor.rawValue, children.descriptor.rawValue, work,
            controlDescriptor, readiness, end,
        ]
        // A hook may have collected the last child; then no event would wake the loop.
        let isOver = life.state != .serving && isEmpty && !isHolding
        let mine = earlier(earlier(controlPause.until, reports?.next), successor?.deadline)
        let next = earlier(earlier(life.deadline, until), mine)
        let rest = isBusy || isOver ? .zero : next.map { $0 - .now }
        return Ready(rawValue: try waitUntilReadable(polled, atMost: rest))
    }

    // MARK: The service manager

    /// Called in each turn: sends what is due. For the parameters see `ManagerReports.fireTimers`.
    func report(_ state: @autoclosure () -> Int?, _ line: () -> String) {
        guard reports != nil else { return }
        reports?.fireTimers(.now, state(), line)
        if life.standing == .replaced, reports?.isDone == true {
            successor?.tellMain()
            reports = nil
        }
    }

    // MARK: Stopping

    /// Carries out the part of a step of stopping that all servers share.
    func carryOut(_ stop: Lifecycle.Stop) {
        announce(stop)
        guard stop.rest != nil else { return }
        children.sweep()  // a child that has ended by itself was not told to: its leftovers are left alone
        if stop.actions.contains(.terminateChildren) { children.terminateAll() }
        if stop.actions.contains(.killChildren) { children.killAll() }
        life.begin(stop.step, at: .now)
    }

    /// Reports a step of stopping. The first step sends STOPPING=1. Each sends how long the rest of the stop may take:
    /// otherwise the manager would wait only as long as it was configured to.
    private func announce(_ stop: Lifecycle.Stop) {
        guard reports != nil, life.standing != .replaced else { return }
        var lines: [String] = []
        if stop.actions.contains(.announceEnd) { lines.append("STOPPING=1") }
        if let rest = stop.rest {
            lines.append("EXTEND_TIMEOUT_USEC=\((Instant(nanoseconds: 0) + rest + .seconds(1)).nanoseconds / 1000)")
        }
        reports?.say(lines.joined(separator: "\n"), .now)
    }

    /// Whether nothing is left to wait for or to report: a step's sweep may have found the last end. After an upgrade,
    /// the manager must know the new main process before this one ends.
    private var isEmpty: Bool {
        children.isLifeless && !children.hasReports && (life.standing != .replaced || reports?.isDone ?? true)
    }

    /// Handles the deadline of a stop, in each turn.
    ///
    /// - Parameter isHolding: whether clients are held that must still be served.
    func fireTimers(_ now: Instant, isHolding: Bool = false) -> Lifecycle.Due? {
        guard life.deadline != nil else { return nil }
        let due = life.fireTimers(now, isEmpty: isEmpty && !isHolding)
        if due == .abandonChildren { abandoned = children.children.map(\.pid) }
        return due
    }

    /// Throws if children are left after the server has stopped.
    func checkAbandoned() throws(ForkingError) {
        if !abandoned.isEmpty { throw .notEnded(abandoned) }
    }

    /// Called when the loop fails: kills all children and stops.
    func fail() {
        children.killAll()
        _ = try? children.wait(atMost: Lifecycle.patienceWithKernel)
        life.fail()
    }
}
