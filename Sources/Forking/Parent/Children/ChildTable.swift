// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
public import SystemPackage

/// A bounded set of child processes. It forks, times, signals and reaps them, and reports each end.
///
/// Use it in a loop of your own: poll `descriptor`, and call `collect()` when it is readable. A table neither waits for
/// nor signals a process that it did not fork, unless `Containment.descendants` or `reapStrangers()` is used.
///
/// All of it runs in the parent, on one thread, except the body passed to `fork`. When a table is released, its
/// children stay as they are, alive or unreaped: end them first with `terminateAll()` and `wait(atMost:)`.
public final class ChildTable {
    /// How the table learns that a child has ended.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Reaping: Sendable {
        /// By SIGCHLD, through one signalfd(2) that all such tables of the process share: no descriptor per child.
        ///
        /// SIGCHLD is blocked in the first thread, on which all such tables must be used. Every other thread must block
        /// it too, and no other code may take it (no handler, no signalfd, no `Foundation.Process`).
        case signal
        /// By a pidfd per child, which needs nothing of the process's signals. pidfd_open(2).
        case pidfd
    }

    /// The maximum number of children at the same time.
    public let maxChildren: Int
    /// If true, the end of a child also ends its process group: processes that it left running there get SIGKILL. If
    /// false, only a child that was told to end (by its timeout, a call or a stop) ends its group; processes left
    /// behind by a child that ended by itself continue to run.
    public var endsGroups = false
    /// Called for each child that was reaped, from within `collect()` or `wait(atMost:)`. It may call the table. In a
    /// server's table, it is called after the server has handled the end.
    public var onExit: (ChildExit) -> Void { didSet { isObserved = true } }
    /// Called for each child that cannot be ended or reaped, at the same times as `onExit`.
    public var onTrouble: (ChildTrouble) -> Void = { _ in }
    /// The server's own handlers, called before `onExit` and `onTrouble`. They are separate because a user may replace
    /// those two.
    var noteExit: (ChildExit) -> Void = { _ in }
    var noteTrouble: (ChildTrouble) -> Void = { _ in }
    /// Whether the table also reaps ended processes that no table has forked: see `reapStrangers()`.
    public internal(set) var reapsStrangers = false
    /// Whether `onExit` was set since the table was made.
    private(set) var isObserved = false

    let source: ReapSource
    let slots: ChildSlots
    /// Death marks, in a table that reaps by signal.
    let marks: OpaquePointer?
    var ended: EndedChildren
    var troubles: [ChildTrouble] = []
    /// How many children were reported as held.
    var heldCount = 0
    /// When to try again to reap children whose end causes no event.
    var askAt: Instant?
    /// No child has a deadline before this.
    var nextDeadline: Instant?
    /// State for children between clone and execve. Nil until the table first spawns one.
    private var spawner: OpaquePointer?
    /// When to check whether spawned children have called execve. `spawnedPause` is the pause before that.
    var spawnedCheckAt: Instant?
    /// Only in a table that contains its children's descendants.
    var orphans: Orphans?
    private var spawnedPause = Duration.zero
    var sharesOneArena = false

    /// Creates an empty table. Parent.
    ///
    /// - Parameters:
    ///   - maxChildren: the maximum number of children at the same time, at least 1.
    ///   - reaping: how the table learns that a child has ended.
    ///   - onExit: see the property.
    /// - Throws: `ForkingError.Code.invalid` if the limit is invalid, or if the process does not meet the conditions of
    ///   `reaping`; `.system` if a system call fails.
    public init(
        maxChildren: Int, reaping: Reaping = .signal, onExit: @escaping (ChildExit) -> Void = { _ in }
    ) throws(ForkingError) {
        try requireAtLeast1("maxChildren", maxChildren)
        forkcore_occupy_standard_descriptors()
        self.maxChildren = maxChildren
        self.onExit = onExit
        source = try ReapSource.source(for: reaping)
        // Linux has no more pids than this (PID_MAX_LIMIT), however large `maxChildren` is.
        let most = 1 << 22
        // More slots than children: leftovers need some.
        let capacity = min(min(maxChildren, most) + max(min(maxChildren, most), 1024), most)
        slots = try ChildSlots(capacity: capacity)
        ended = try EndedChildren()
        var marks: OpaquePointer?
        if source.needsMarks { try check(forkcore_marks_open(capacity, &marks), "mmap") }
        self.marks = marks
        source.attach(self)
        TableReference.enlist(self)
    }

    deinit {
        source.detach(self)
        TableReference.delist(self)
        guard source.isOurs else { return }
        forEachChild { _, child in if child.pidfd >= 0 { source.unwatch(child.pidfd) } }
        if let marks { forkcore_marks_close(marks) }
        if let spawner { forkcore_spawner_close(spawner, Self.patienceWithPrograms) }
    }

    /// How long to wait for spawned children to call execve, in nanoseconds.
    private static let patienceWithPrograms: Int64 = 1_000_000_000

    /// The number of children.
    public var count: Int {
        requireParent()
        return slots.count
    }

    /// Whether the table has as many children as it may have.
    public var isFull: Bool {
        if let orphans, count < maxChildren, count + orphans.unseenEnds.value >= maxChildren { adopt() }
        return count >= maxChildren
    }

    /// Readable when there is something to `collect()`: an end, or a deadline. The table owns it. Tables that reap by
    /// signal share one descriptor, and one `collect()` serves all of them.
    public var descriptor: FileDescriptor { FileDescriptor(rawValue: source.descriptor) }

    /// Calls `body` with each child and its slot. `body` may remove children. A child that is added meanwhile may be
    /// skipped.
    func forEachChild(_ body: (Int, Child) -> Void) {
        var slot = slots.next(from: 0)
        while let current = slot {
            body(current, slots[current])
            slot = slots.next(from: current + 1)
        }
    }

    func requireParent() {
        precondition(source.isOurs, "a child used the table of its parent; it can only make one of its own")
    }

    // MARK: Forking

    /// Forks a child that runs `body`, and exits with its result as status. fork(2), _exit(2).
    ///
    /// The child has an empty signal mask, whatever the parent blocks, and none of this library's descriptors
    /// (listeners, tables). Crash signals, and signals that this library has blocked, get their default dispositions if
    /// they had a handler when the table first forked. The child never returns from `body` into the parent's code; at
    /// its end it flushes stdio. A trap in `body` ends only the child. Parent.
    ///
    /// - Parameters:
    ///   - peer: the client that the child serves; returned in `ChildExit` and `ChildInfo`.
    ///   - options: how the child is set up and limited.
    ///   - body: runs in the child.
    /// - Throws: `ForkingError.Code.full` if the table is full; `.threads` if this process has more than one thread and
    ///   `options` do not allow that; `.invalid` if `options` are invalid; `.system` if the kernel refuses (EAGAIN,
    ///   ENOMEM).
    @discardableResult
    public func fork(
        peer: SocketAddress? = nil, options: ChildOptions = ChildOptions(), _ body: () -> Int32
    ) throws(ForkingError) -> ProcessID {
        try fork(peer: peer, options: options, keeping: [], body)
    }

    /// The same, for a child that keeps some of this library's descriptors.
    @discardableResult
    func fork(
        peer: SocketAddress? = nil, options: ChildOptions = ChildOptions(), keeping kept: [Int32], _ body: () -> Int32
    ) throws(ForkingError) -> ProcessID {
        try make(peer, options, keeping: kept) { plan, pid in
            let code = forkcore_fork(&plan, &pid)
            if code == 0, pid == 0 { forkcore_exit(body()) }  // the child ends here, and releases nothing
            return code
        }
    }

    /// The same, for a parent that runs on a `ParentStack`. The child begins with `body`, which gets a copy of `start`.
    func fork<Start: BitwiseCopyable>(
        peer: SocketAddress? = nil, options: ChildOptions, keeping kept: [Int32] = [], from stack: ParentStack,
        _ start: Start, _ body: @convention(c) (UnsafeRawPointer?) -> Int32
    ) throws(ForkingError) -> ProcessID {
        try make(peer, options, keeping: kept) { plan, pid in stack.fork(plan, start, body, &pid) }
    }

    private func make(
        _ peer: SocketAddress?, _ options: ChildOptions, keeping kept: [Int32],
        by fork: (inout forkcore_child_plan, inout ProcessID) -> Int32
    ) throws(ForkingError) -> ProcessID {
        requireParent()
        try options.check()
        if !options.allowsThreads { try Threads.requireOne() }
        try contain(options)
        let slot = try reserve()
        let startedAt = Instant.now
        var pid: ProcessID = 0
        let code = withPlan(options, slot) { plan in
            ParentOnly.withDescriptors(but: kept) {
                plan.closing = UnsafePointer($0.baseAddress)
                plan.closing_count = $0.count
                return fork(&plan, &pid)
            }
        }
        guard code == 0 else {
            vacate(slot)
            throw .system(call: "fork", Errno(rawValue: code))
        }
        try enter(pid, slot, peer, startedAt, options)
        return pid
    }

    /// Makes a child that executes `program`. The program has `descriptor` as descriptors 0 and 1, and inherits 2; all
    /// others are closed. clone(2), execve(2).
    ///
    /// The cost does not depend on the parent's memory. The child has an empty signal mask, and the same dispositions
    /// as with `fork`, except that SIGPIPE gets its default. Libc's fork handlers do not run.
    ///
    /// Parent: does not wait for execve, and the caller may close `descriptor` at once. If the program cannot be
    /// executed, the child exits with status 127, and `ChildExit.execError` has execve's errno. The table must reap by
    /// pidfd, because a child loses its death mark at execve.
    /// - Throws: as `fork` does; `.crowded` if as many children as possible have not called execve yet.
    @discardableResult
    public func spawn(
        _ program: Program, on descriptor: FileDescriptor, peer: SocketAddress? = nil,
        options: ChildOptions = ChildOptions()
    ) throws(ForkingError) -> ProcessID {
        try spawn(program, on: descriptor, at: 0, peer: peer, options: options)
    }

    /// The same, but unless `target` is 0, the program has `descriptor` as descriptor `target`, and inherits 0 and 1.
    @discardableResult
    func spawn(
        _ program: Program, on descriptor: FileDescriptor, at target: Int32,
        peer: SocketAddress? = nil, options: ChildOptions
    ) throws(ForkingError) -> ProcessID {
        requireParent()
        precondition(
            marks == nil, "a table that spawns programs must reap by pidfd: ChildTable(maxChildren:reaping: .pidfd)")
        try options.check()
        var options = options
        if options.containment == nil { options.containment = .session }
        try contain(options)
        if spawner == nil { try check(forkcore_spawner_open(&spawner), "mmap") }
        let slot = try reserve()
        let startedAt = Instant.now
        var pid: ProcessID = 0
        var pidfd: Int32 = -1
        let code = withPlan(options, slot) { plan in
            plan.target_descriptor = target
            plan.closes_aside = peer?.isUnix ?? false
            plan.takes_errors = program.isStandardErrorConnected
            plan.confinement.limits.memory_is_all = true
            return program.withStrings { path, arguments, environment in
                forkcore_spawn(
                    spawner, &plan, descriptor.rawValue, path, arguments, environment, slots.execError(slot), &pid,
                    &pidfd
                )
            }
        }
        guard code == 0 else {
            vacate(slot)
            guard code != EBUSY else { throw .crowded }
            throw .system(call: String(cString: forkcore_spawner_failed_call(spawner)), Errno(rawValue: code))
        }
        try enter(pid, slot, peer, startedAt, options, pidfd: pidfd)
        spawnedPause = .zero
        closeSpawnedDescriptors()
        return pid
    }

    /// Enters a new child into the table, and begins to watch it.
    private func enter(
        _ pid: ProcessID, _ slot: Int, _ peer: SocketAddress?, _ startedAt: Instant, _ options: ChildOptions,
        pidfd: Int32? = nil
    ) throws(ForkingError) {
        do throws(ForkingError) {
            var watched = pidfd ?? -1
            if let pidfd { try source.watch(pidfd: pidfd, slot) } else { watched = try source.watch(pid, slot) }
            commit(slot, Child(pid, peer, startedAt, options, pidfd: watched))
        } catch {
            endUnwatched(slot, Child(pid, nil, startedAt, options, pidfd: -1))
            throw error
        }
    }

    /// Closes the parent's copies of connections whose children have called execve, so that the client sees EOF when
    /// the program closes its own. While some have not, checks again at longer and longer intervals.
    func closeSpawnedDescriptors() {
        guard let spawner, !forkcore_spawner_close_descriptors(spawner), spawnedCheckAt == nil else { return }
        spawnedPause = min(max(.milliseconds(1), spawnedPause * 2), .milliseconds(64))
        let soon = Instant.now + spawnedPause
        spawnedCheckAt = soon
        source.wake(at: soon)
    }

    /// Waits until every spawned child has called execve. That takes microseconds; the limit is a second.
    ///
    /// - Returns: whether all have.
    func awaitPrograms() -> Bool {
        spawner.map { forkcore_spawner_await($0, Self.patienceWithPrograms) } ?? true
    }

    /// Signals that had a handler when the first child was forked. Asking at each fork would cost ten system calls.
    lazy var handled = SignalSet(rawValue: forkcore_signals_handled(.max))

    /// Kills and reaps a child that could not be watched. If the kernel or a tracer holds it, it keeps its slot, and
    /// the table tries again later.
    private func endUnwatched(_ slot: Int, _ child: Child) {
        _ = forkcore_kill(child.pid, false, SIGKILL)
        let end = Instant.now + .milliseconds(100)
        var ending = forkcore_ending()
        while forkcore_reap(child.pid, false, &ending) == 0, ending.state == FORKCORE_RUNNING {
            guard Instant.now < end else {
                commit(slot, child)
                return kill(at: slot)
            }
            sched_yield()
        }
        vacate(slot)
    }

    // MARK: Reaping

    /// Reaps every child that has ended, ends those whose timeout has passed, and calls `onExit` for each end. Never
    /// waits. Parent.
    public func collect() { collect(telling: tellAll) }

    /// The same, with another observer for this table's children. Inlined, so that what the observer captures is not
    /// retained.
    @inline(__always)
    func collect(telling observe: (ChildExit) -> Void) {
        requireParent()
        source.reap()
        tell(observe)
        source.tellOthers()
    }

    /// Waits until no child is left, but at most for `deadline`; nil waits forever. Meanwhile children are reaped and
    /// timeouts enforced; otherwise no signal is sent. Parent.
    ///
    /// - Returns: whether no child is left.
    /// - Throws: `ForkingError.Code.system` if polling fails.
    public func wait(atMost deadline: Duration? = nil) throws(ForkingError) -> Bool {
        let end = deadline.map { Instant.now + $0 }
        sweep()
        collect()
        while !isDeserted {
            let rest = end.map { $0 - Instant.now }
            if let rest, rest <= .zero { return false }
            _ = try waitUntilReadable(source.descriptor, atMost: rest)
            collect()
        }
        return true
    }

    /// Reaps `pid` if it is a child of this table that has ended. Returns whether it was.
    func reap(pid: ProcessID) -> Bool {
        slots.slot(of: pid).map(reap) ?? false
    }

    /// Reaps the child in `slot` if it has ended. Returns whether it had. `tell` reports it to observers.
    func reap(_ slot: Int) -> Bool {
        let child = slots[slot]
        var ending = forkcore_ending()
        // A table that contains descendants tracks leftovers itself, so that it does not need `endsGroups`.
        let endsGroup = child.hasGroup && (endsGroups && orphans == nil || child.stage != .running)
        // An errno other than ECHILD would mean a kernel without wait4. The child then stays in the table.
        guard forkcore_reap(child.pid, endsGroup, &ending) == 0, ending.state != FORKCORE_RUNNING else { return false }
        release(slot, ending)
        return true
    }

    /// Reaps a process that is in no table. Returns false if it has not ended.
    static func reap(stranger pid: ProcessID) -> Bool {
        var ending = forkcore_ending()
        return forkcore_reap(pid, false, &ending) == 0 && ending.state != FORKCORE_RUNNING
    }

    /// Whether there is something to report.
    var hasReports: Bool { !ended.isEmpty || !troubles.isEmpty }

    /// Calls the server's and the user's observers.
    func tellAll(_ exit: ChildExit) {
        noteExit(exit)
        onExit(exit)
    }

    /// Reports ended children, and trouble. The observer may call this again: each is reported once.
    @inline(__always)
    func tell(_ observe: (ChildExit) -> Void) {
        while let next = ended.next() { observe(ChildExit(next)) }
        while !troubles.isEmpty {
            let trouble = troubles.removeFirst()
            noteTrouble(trouble)
            onTrouble(trouble)
        }
    }

    /// The only function that sends a signal to a child.
    @discardableResult
    func signal(_ signal: Signal, at slot: Int, group: Bool) -> Bool {
        let child = slots[slot]
        let code = forkcore_kill(child.pid, group && child.hasGroup, signal.rawValue)
        if code == ECHILD {
            if reap(slot) { source.wake(at: .now) }  // other code has reaped it
        } else {
            noteSignal(signal, to: slot, refused: code == EPERM)
        }
        return code == 0
    }
}
