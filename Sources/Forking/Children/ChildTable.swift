// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// A bounded set of forked children: it forks them, reaps them, keeps their time, signals them, and tells of each end.
///
/// By itself it serves in a loop of your own: poll `descriptor`, and call `collect()` when it is readable. It never
/// touches a child that it did not fork: none is waited for, none is signalled.
///
/// Everything here runs in the parent, on one thread, except the body given to `fork`. A table that goes away leaves its
/// children alone, alive or unreaped; end them first with `terminateAll()` and `wait(atMost:)`.
public final class ChildTable {
    /// How the table learns that a child has ended.
    public enum Reaping: Sendable {
        /// By SIGCHLD, through one signalfd(2) that all such tables of the process share: no descriptor per child.
        ///
        /// SIGCHLD gets blocked in the first thread, on which all such tables live; every other thread must block it
        /// too, and nobody else may take it (no handler, no signalfd, no `Foundation.Process`).
        case signal
        /// By a pidfd per child, which asks nothing of the host's signals. pidfd_open(2).
        case pidfd
    }

    /// How many children there can be at once.
    public let limit: Int
    /// While true, the end of a child is also the end of its process group: what it left running there gets SIGKILL.
    /// A server that stops sets this. In service, what a child leaves behind after a normal end is left alone.
    public var endsGroups = false
    /// Called for each child that was reaped, from within `collect()` or `wait(atMost:)`. It may call the table.
    public var onExit: (ChildExit) -> Void

    private let source: ReapSource
    private(set) var live: [ProcessID: Child] = [:]
    private(set) var reserved = 0
    private var pending: [ChildExit] = []
    /// No child has a deadline before this.
    private var nextDeadline: Instant?

    /// - Parameters:
    ///   - limit: how many children there can be at once, at least 1.
    ///   - onExit: see the property.
    /// - Throws: `ForkingError.invalid` for the limit, or if the process cannot give what `reaping` needs; `.system`.
    public init(
        limit: Int, reaping: Reaping = .signal, onExit: @escaping (ChildExit) -> Void = { _ in }
    ) throws(ForkingError) {
        guard limit >= 1 else { throw .invalid("a limit of \(limit) children cannot be: at least 1 is needed") }
        self.limit = limit
        self.onExit = onExit
        source = try ReapSource.source(for: reaping)
        source.attach(self)
    }

    deinit {
        for child in live.values { child.pidfd.map(source.unwatch) }
        source.detach(self)
    }

    /// How many children there are.
    public var count: Int { live.count + reserved }

    /// Whether another child would be one too many.
    public var isFull: Bool { count >= limit }

    /// Readable when there is something to `collect()`: an end, a deadline. It stays the table's. Tables that reap by
    /// signal share one, and one `collect()` serves them all.
    public var descriptor: FileDescriptor { FileDescriptor(rawValue: source.descriptor) }

    /// The live children, oldest first.
    public var children: [ChildInfo] {
        let now = Instant.now
        return live.values.sorted { ($0.startedAt, $0.pid) < ($1.startedAt, $1.pid) }.map {
            ChildInfo(pid: $0.pid, peer: $0.peer, age: now - $0.startedAt, isEnding: $0.stage != .running)
        }
    }

    var pids: [ProcessID] { Array(live.keys) }

    private func requireParent() {
        precondition(source.isOurs, "a child used the table of its parent; it can only make one of its own")
    }

    // MARK: Forking

    /// Forks a child that runs `body` and ends with its result as exit status. fork(2), _exit(2).
    ///
    /// The child has the parent's mask without what this library blocked, and none of this library's descriptors
    /// (listeners, tables). Crash signals, and those that this library blocked, get their default dispositions back if
    /// they had a handler when the table first forked. It never returns from `body` into the parent's code; stdio is
    /// flushed at its end. A trap in `body` ends the child alone.
    ///
    /// - Parameter peer: whom the child serves; comes back in `ChildExit` and `ChildInfo`.
    /// - Throws: `ForkingError.full`; `.threads` if this process has more than one thread and `options` do not allow it;
    ///   `.system` if the kernel refuses (EAGAIN, ENOMEM).
    @discardableResult
    public func fork(
        peer: SocketAddress? = nil, options: ChildOptions = ChildOptions(), _ body: () -> Int32
    ) throws(ForkingError) -> ProcessID {
        requireParent()
        let options = try options.checked()
        if !options.allowsThreads { try Threads.requireOne() }
        try reserve()
        let startedAt = Instant.now
        var pid: ProcessID = 0
        let code = forkChild(options, body, &pid)
        guard code == 0 else {
            abandon()
            throw .system(call: "fork", Errno(rawValue: code))
        }
        let pidfd: Int32?
        do {
            pidfd = try source.watch(pid)
        } catch {
            end(unwatchable: pid)
            abandon()
            throw error
        }
        let limit = options.timeLimit.map { startedAt + $0 }
        commit(
            Child(
                pid: pid, peer: peer, startedAt: startedAt, hasGroup: options.ownGroup, pidfd: pidfd, deadline: limit,
                killAfter: options.killAfter))
        return pid
    }

    /// Signals that had a handler when the first child was forked; asking each time would cost ten system calls a fork.
    private lazy var handled = SignalSet(rawValue: forkcore_signals_handled(.max))

    /// The one place that forks.
    private func forkChild(_ options: ChildOptions, _ body: () -> Int32, _ pid: inout ProcessID) -> Int32 {
        let left = ParentOnly.current
        let ours = SignalSet(rawValue: left.blockedSignals)
        let reset = (options.crashBacktraces ? ours : ours.union(Signal.crashes)).intersection(handled)
        let closing = options.keeps.map { kept in left.descriptors.filter { $0 != kept } } ?? left.descriptors
        return closing.withUnsafeBufferPointer { closing in
            var plan = forkcore_child_plan(
                unblock: ours.rawValue, defaults: reset.rawValue,
                closing: closing.baseAddress, closing_count: closing.count,
                own_group: options.ownGroup, dies_with_parent: options.diesWithParent)
            return withoutActuallyEscaping(body) { body in
                var body = body
                return withUnsafeMutablePointer(to: &body) { context in
                    forkcore_fork(&plan, runChild, context, &pid)
                }
            }
        }
    }

    /// A child that was forked, but that nobody could tell us the end of.
    private func end(unwatchable pid: ProcessID) {
        _ = forkcore_kill(pid, false, SIGKILL)
        var ending = forkcore_ending()
        while forkcore_reap(pid, false, &ending) == 0, ending.state == FORKCORE_RUNNING { sched_yield() }
    }

    // MARK: Slots: reserve → commit or abandon → release

    private func reserve() throws(ForkingError) {
        guard !isFull else { throw .full(limit: limit) }
        reserved += 1
        checkInvariants()
    }

    private func commit(_ child: Child) {
        reserved -= 1
        // Had an earlier child of this number been ours still, the kernel would not have given it out again.
        if let lost = live[child.pid] { release(lost, forkcore_ending(FORKCORE_LOST)) }
        live[child.pid] = child
        child.deadline.map(noteDeadline)
        checkInvariants()
    }

    private func abandon() {
        reserved -= 1
        checkInvariants()
    }

    private func release(_ child: Child, _ ending: forkcore_ending) {
        live[child.pid] = nil
        child.pidfd.map(source.unwatch)
        pending.append(ChildExit(child, ending, at: .now))
        checkInvariants()
    }

    // MARK: Reaping

    /// Reaps every child that has ended, ends those whose time has come, and calls `onExit` for each. Never waits.
    public func collect() {
        requireParent()
        source.collect()
    }

    /// Waits until there is no child left, but no longer than `deadline`; nil waits for ever. Children are reaped and
    /// deadlines kept meanwhile; nothing is sent to anyone.
    ///
    /// - Returns: whether there is none left.
    public func wait(atMost deadline: Duration? = nil) throws(ForkingError) -> Bool {
        let end = deadline.map { Instant.now + $0 }
        sweep()
        collect()
        while count > 0 {
            let rest = end.map { ($0 - Instant.now).inNanoseconds }
            if let rest, rest <= 0 { return false }
            var descriptor = source.descriptor
            var ready: UInt32 = 0
            try check(forkcore_wait_readable(&descriptor, 1, rest ?? -1, &ready), "ppoll")
            collect()
        }
        return true
    }

    /// Looks for each child, whether or not news of its end has come: who waits for all depends on no SIGCHLD that
    /// somebody else may have taken, or thrown away by setting it to its default.
    func sweep() {
        requireParent()
        source.sweep()
        source.wake(at: .now)  // to tell of what was found
    }

    /// Whether `pid` is a child of this table that had ended. Its observers hear of it in `deliver()`.
    func reap(_ pid: ProcessID) -> Bool {
        guard let child = live[pid] else { return false }
        var ending = forkcore_ending()
        let endsGroup = child.hasGroup && (endsGroups || child.stage != .running)
        // An errno other than ECHILD would be a kernel that has no wait4; the child stays in the table.
        guard forkcore_reap(pid, endsGroup, &ending) == 0, ending.state != FORKCORE_RUNNING else { return false }
        release(child, ending)
        return true
    }

    /// Tells the observer what has ended since it was last told.
    func deliver() {
        while !pending.isEmpty { onExit(pending.removeFirst()) }
    }

    // MARK: Signalling and time

    /// Sends `signal` to a child, or with `group` to its process group. kill(2).
    ///
    /// - Returns: false if `pid` is no live child of this table; nothing is sent then.
    @discardableResult
    public func signal(_ signal: Signal, to pid: ProcessID, group: Bool = false) -> Bool {
        requireParent()
        guard let child = live[pid] else { return false }
        let code = forkcore_kill(pid, group && child.hasGroup, signal.rawValue)
        if code == ECHILD, reap(pid) { source.wake(at: .now) }  // somebody else has reaped it
        return code == 0
    }

    /// Sends `signal` to every child, or with `group` to their process groups. kill(2).
    public func signalAll(_ signal: Signal, group: Bool = false) {
        for pid in live.keys { self.signal(signal, to: pid, group: group) }
    }

    /// Sends SIGTERM to a child and its group; `killAfter` later, 3 seconds unless its options say otherwise, SIGKILL.
    ///
    /// - Returns: false if `pid` is no live child of this table; nothing is sent then.
    @discardableResult
    public func terminate(_ pid: ProcessID) -> Bool {
        guard let child = live[pid] else { return false }
        if child.stage == .running { advance(child, because: .stopped, at: .now) }
        return true
    }

    /// Sends SIGTERM to every child and its group; `killAfter` later SIGKILL.
    public func terminateAll() {
        for pid in pids { terminate(pid) }
    }

    /// Sends SIGKILL to every child and its group.
    public func killAll() {
        for child in live.values where child.stage != .killed {
            var child = child
            child.stage = .terminating
            advance(child, because: .stopped, at: .now)
        }
    }

    /// Takes a child to its next stage: SIGTERM, then SIGKILL.
    private func advance(_ child: Child, because reason: ChildExit.Reason, at now: Instant) {
        var child = child
        if child.reason == .own { child.reason = reason }
        switch child.stage {
        case .running:
            child.stage = .terminating
            child.deadline = now + child.killAfter
            signal(.terminate, to: child.pid, group: true)
            signal(.continue, to: child.pid, group: true)  // one that was stopped would not see it
        case .terminating:
            child.stage = .killed
            child.deadline = nil
            signal(.kill, to: child.pid, group: true)
        case .killed:
            return
        }
        if live[child.pid] != nil { live[child.pid] = child }  // lost, it was released just now
        child.deadline.map(noteDeadline)
        checkInvariants()
    }

    private func noteDeadline(_ deadline: Instant) {
        guard nextDeadline.map({ deadline < $0 }) ?? true else { return }
        nextDeadline = deadline
        source.wake(at: deadline)
    }

    /// Ends the children whose time has come. Returns when to look again.
    ///
    /// All are looked at, but only when the earliest deadline that was known has come: once a time limit, not once an
    /// end.
    func keepTime(_ now: Instant) -> Instant? {
        guard let next = nextDeadline, next <= now else { return nextDeadline }
        nextDeadline = nil
        for child in live.values {
            guard let deadline = child.deadline else { continue }
            if deadline <= now {
                advance(child, because: .timeLimit, at: now)
            } else {
                noteDeadline(deadline)
            }
        }
        return nextDeadline
    }
}

/// Child: what runs in it from C's side on.
private func runChild(_ context: UnsafeMutableRawPointer?) -> Int32 {
    ParentOnly.forget()
    return context!.assumingMemoryBound(to: (() -> Int32).self).pointee()
}

/// How many threads this process has, and whether that may be.
enum Threads {
    static func requireOne() throws(ForkingError) {
        let count = forkcore_thread_count()
        if count > 1 { throw .threads(count: Int(count)) }
    }
}

extension forkcore_ending {
    fileprivate init(_ state: forkcore_state) {
        self.init()
        self.state = state
    }
}
