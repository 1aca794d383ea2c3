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
    /// Asked when a child's timeout has passed: when it does, for a child whose work began later than the child.
    var timesOut: ((Child) -> Instant)?
    /// No child has a deadline before this.
    var nextDeadline: Instant?
    /// State for children between clone and execve. Nil until the table first spawns one.
    var spawner: OpaquePointer?
    /// When to check whether spawned children have called execve. `spawnedPause` is the pause before that.
    var spawnedCheckAt: Instant?
    var spawnedPause = Duration.zero
    /// Only in a table that contains its children's descendants.
    var orphans: Orphans?
    var sharesOneArena = false
    /// Signals that had a handler when the first child was forked. Asking at each fork would cost ten system calls.
    lazy var handled = SignalSet(rawValue: forkcore_signals_handled(.max))

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

    /// The same, for a parent that runs on a `ParentStack`. The child begins with `body`, which gets a copy of `start`:
    /// in `live` of CForkCore/stack.c, on the stack that it shares with no loop, or, if there is no `ParentStack`, at
    /// the end of `forkcore_stack_fork`.
    func fork<Start: BitwiseCopyable>(
        peer: SocketAddress? = nil, options: ChildOptions, keeping kept: [Int32] = [], from stack: ParentStack,
        _ start: Start, _ body: @convention(c) (UnsafeRawPointer?) -> Int32
    ) throws(ForkingError) -> ProcessID {
        try make(peer, options, keeping: kept) { plan, pid in
            withUnsafePointer(to: start) {
                forkcore_stack_fork(stack.memory, &plan, $0, MemoryLayout<Start>.size, body, &pid)
            }
        }
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

    // MARK: A slot's life: reserve → commit → release, or vacate

    func reserve() throws(ForkingError) -> Int {
        guard !isFull else { throw .full(limit: maxChildren) }
        orphans?.fate = .running
        defer { checkInvariants() }
        return slots.take()
    }

    /// Calls `fork` with the plan for the child in `slot`: what it does before its body, or before execve. It allocates
    /// nothing, and fills in the plan in place, because each idle child has a copy of what is written to the stack here.
    func withPlan(_ options: ChildOptions, _ slot: Int, _ fork: (inout forkcore_child_plan) -> Int32) -> Int32 {
        let containment = options.containment ?? .group
        let taken = SignalSet(rawValue: ParentOnly.blockedSignals)
        let defaults = options.printsCrashBacktrace ? taken : taken.union(Signal.crashes)
        var plan = forkcore_child_plan()
        plan.defaults = defaults.intersection(handled).rawValue
        plan.heedless = options.heedless.rawValue
        if let marks { plan.mark = forkcore_marks_occupy(marks, slot) }
        plan.own_group = containment >= .group
        plan.own_session = containment >= .session
        plan.dies_with_parent = options.diesWithParent
        if containment == .descendants { plan.watcher = orphans?.watching }
        plan.watched_as = slot
        plan.confinement = options.confinement
        guard let credentials = options.credentials else { return fork(&plan) }
        return credentials.withC {
            plan.confinement.credentials = $0
            return fork(&plan)
        }
    }

    /// Enters a new child into the table, and begins to watch it: by its pidfd, if it has one already.
    func enter(
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

    func commit(_ slot: Int, _ child: Child) {
        // The kernel does not reuse the pid of an unreaped child. If the table still has this pid, other code has
        // reaped that child.
        if let lost = slots.slot(of: child.pid) {
            var ending = forkcore_ending()
            ending.state = FORKCORE_LOST
            release(lost, ending)
        }
        slots.fill(slot, with: child)
        if let orphans {
            orphans.note(child.pid, in: slot)
            source.scheduleSweep()  // most daemons leave right after their start
        }
        child.deadline.map(noteDeadline)
        checkInvariants()
    }

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

    /// See `Child.tag`.
    func tag(of pid: ProcessID) -> Int32 { slots.slot(of: pid).map { slots[$0].tag } ?? -1 }

    func setTag(_ tag: Int32, of pid: ProcessID) {
        if let slot = slots.slot(of: pid) { slots[slot].tag = tag }
    }

    /// The table's invariants, checked after changes in debug builds:
    /// - as many slots are taken as are counted, and no more than the limit;
    /// - a live child is in one slot, and is found there by its pid;
    /// - a child that was told to end has a deadline for SIGKILL, or was sent it.
    ///
    /// With many children, not every change is checked, so that the cost of a change does not grow with their number.
    func checkInvariants() {
        assert(
            {
                guard count % (1 + count / 256) == 0 else { return true }
                forEachChild { slot, child in
                    assert(child.pid > 1 && slots.slot(of: child.pid) == slot, "a child is not found by its pid")
                    assert(
                        (child.stage == .terminating) == (child.stage != .killed && child.reason != .own),
                        "a child's stage and the reason for it disagree")
                }
                var taken = 0
                for slot in 0..<slots.end where slots.isTaken(slot) { taken += 1 }
                assert(count == taken, "a slot was given back twice")
                assert(orphans != nil || count <= maxChildren, "more children than maxChildren")
                return true
            }())
    }
}
