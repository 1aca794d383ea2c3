// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
public import SystemPackage

/// A bounded set of forked children: it forks them, reaps them, keeps their time, signals them, and tells of each end.
///
/// By itself it serves in a loop of your own: poll `descriptor`, and call `collect()` when it is readable. It never
/// touches a child that it did not fork: none is waited for, none is signalled.
///
/// Everything here runs in the parent, on one thread, except the body given to `fork`. A table that goes away leaves
/// its children alone, alive or unreaped; end them first with `terminateAll()` and `wait(atMost:)`.
public final class ChildTable {
    /// How the table learns that a child has ended.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
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
    public let maxChildren: Int
    /// While true, the end of a child is also the end of its process group: what it left running there gets SIGKILL.
    /// Otherwise that holds for those alone that were told to end: what a child leaves behind that ends by itself is
    /// left alone.
    public var endsGroups = false
    /// Called for each child that was reaped, from within `collect()` or `wait(atMost:)`. It may call the table. A
    /// server whose table it is has heard of the end by then.
    public var onExit: (ChildExit) -> Void { didSet { isObserved = true } }
    /// Called for each child that cannot be ended or reaped, as `onExit` is.
    public var onTrouble: (ChildTrouble) -> Void = { _ in }
    /// What the server does of itself whose table it is, before those: what it needs nobody takes from it.
    var noteExit: (ChildExit) -> Void = { _ in }
    var noteTrouble: (ChildTrouble) -> Void = { _ in }
    /// Whether ended processes are reaped that no table has forked: see `reapStrangers()`.
    public internal(set) var reapsStrangers = false
    /// Whether `onExit` was set since the table was made.
    private(set) var isObserved = false

    let source: ReapSource
    let slots: ChildSlots
    /// In a table that reaps by signal.
    let marks: OpaquePointer?
    var ended: EndedChildren
    var troubles: [ChildTrouble] = []
    /// How many of the children were told to be held.
    var heldCount = 0
    /// When to ask for those whose end shows by no event.
    var askAt: Instant?
    /// No child has a deadline before this.
    var nextDeadline: Instant?
    /// Where children become programs, in a table that has ever spawned one.
    private var spawner: OpaquePointer?
    /// When to look whether the children in there have left, and how long that was put off.
    var spawnedCheckAt: Instant?
    /// In a table whose children's descendants are contained.
    var orphans: Orphans?
    private var spawnedPause = Duration.zero
    var sharesOneArena = false

    /// - Parameters:
    ///   - maxChildren: how many children there can be at once, at least 1.
    ///   - reaping: how the table learns that a child has ended.
    ///   - onExit: see the property.
    /// - Throws: `ForkingError.Code.invalid` for the limit, or if the process cannot give what `reaping` needs;
    ///   `.system`.
    public init(
        maxChildren: Int, reaping: Reaping = .signal, onExit: @escaping (ChildExit) -> Void = { _ in }
    ) throws(ForkingError) {
        guard maxChildren >= 1 else { throw .invalid("maxChildren is \(maxChildren), and must be at least 1") }
        forkcore_occupy_standard_descriptors()
        self.maxChildren = maxChildren
        self.onExit = onExit
        source = try ReapSource.source(for: reaping)
        // Linux has numbers for no more processes than this, whatever is asked for.
        let most = 1 << 22
        // Some for what is left behind.
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

    /// How long programs may take to be executed where there is nothing to do but to wait for that.
    private static let patienceWithPrograms: Int64 = 1_000_000_000

    /// How many children there are.
    public var count: Int {
        requireParent()
        return slots.count
    }

    /// Whether another child would be one too many.
    public var isFull: Bool {
        if let orphans, count < maxChildren, count + orphans.unseenEnds.value >= maxChildren { adopt() }
        return count >= maxChildren
    }

    /// Readable when there is something to `collect()`: an end, a deadline. It stays the table's. Tables that reap by
    /// signal share one, and one `collect()` serves them all.
    public var descriptor: FileDescriptor { FileDescriptor(rawValue: source.descriptor) }

    /// Children may go, but none come, while `body` runs.
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

    /// Forks a child that runs `body` and ends with its result as exit status. fork(2), _exit(2).
    ///
    /// The child has an empty signal mask, whatever is blocked here, and none of this library's descriptors (listeners,
    /// tables). Crash signals, and those that this library blocked, get their default dispositions back if
    /// they had a handler when the table first forked. It never returns from `body` into the parent's code; stdio is
    /// flushed at its end. A trap in `body` ends the child alone.
    ///
    /// - Parameters:
    ///   - peer: whom the child serves; comes back in `ChildExit` and `ChildInfo`.
    ///   - options: how the child is set up and bounded.
    ///   - body: runs in the child.
    /// - Throws: `ForkingError.Code.full`; `.threads` if this process has more than one thread and `options` do not
    ///   allow it; `.system` if the kernel refuses (EAGAIN, ENOMEM).
    @discardableResult
    public func fork(
        peer: SocketAddress? = nil, options: ChildOptions = ChildOptions(), _ body: () -> Int32
    ) throws(ForkingError) -> ProcessID {
        try fork(peer: peer, options: options, keeping: [], body)
    }

    /// The same, for a child that is to have some of this library's descriptors.
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

    /// The same, for a parent that runs on a stack of its own. The child begins with `body`, which is given a copy of
    /// `start`.
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

    /// Makes a child that is `program` from the start, on `descriptor`: it stands on the program's descriptors 0 and 1,
    /// 2 is inherited, and all others are closed. clone(2), execve(2).
    ///
    /// It costs the same however much memory the parent has. The child has an empty mask, and the dispositions that one
    /// of `fork` has; SIGPIPE gets its default. Libc's fork handlers do not run.
    ///
    /// Parent: goes on at once, and may close `descriptor`. A program that cannot be executed is a child that ends with
    /// status 127, and execve's error in `ChildExit.execError`. The table must reap by pidfd, as exec ends what marks
    /// a child's end otherwise.
    /// - Throws: as `fork` does; `.crowded`.
    @discardableResult
    public func spawn(
        _ program: Program, on descriptor: FileDescriptor, peer: SocketAddress? = nil,
        options: ChildOptions = ChildOptions()
    ) throws(ForkingError) -> ProcessID {
        try spawn(program, on: descriptor, at: 0, peer: peer, options: options)
    }

    /// The same, for a program that has `descriptor` as its number `target`, unless that is 0, and our 0 and 1.
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

    /// A child was made.
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

    /// Until a child is a program, its connection is open here too; the client is to see it when the program closes its
    /// own. One that takes long to be executed is looked for less and less often.
    func closeSpawnedDescriptors() {
        guard let spawner, !forkcore_spawner_close_descriptors(spawner), spawnedCheckAt == nil else { return }
        spawnedPause = min(max(.milliseconds(1), spawnedPause * 2), .milliseconds(64))
        let soon = Instant.now + spawnedPause
        spawnedCheckAt = soon
        source.wake(at: soon)
    }

    /// Waits until the children that are to be programs are, which is a matter of microseconds, or a second at most.
    ///
    /// - Returns: whether they are.
    func awaitPrograms() -> Bool {
        spawner.map { forkcore_spawner_await($0, Self.patienceWithPrograms) } ?? true
    }

    /// Signals that had a handler when the first child was forked; asking each time would cost ten system calls a fork.
    lazy var handled = SignalSet(rawValue: forkcore_signals_handled(.max))

    /// A child that was made, but that nobody could tell us the end of. It ends at once; but where the kernel or a
    /// tracer holds it, it keeps its place for now, and is asked for by and by.
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

    /// Reaps every child that has ended, ends those whose time has come, and calls `onExit` for each. Never waits.
    public func collect() { collect(telling: tellAll) }

    /// The same, with another observer for this table's children. Inline, so that it need not be counted what that one
    /// holds.
    @inline(__always)
    func collect(telling observe: (ChildExit) -> Void) {
        requireParent()
        source.reap()
        tell(observe)
        source.tellOthers()
    }

    /// Waits until there is no child left, but no longer than `deadline`; nil waits for ever. Children are reaped and
    /// deadlines kept meanwhile; nothing is sent to anyone.
    ///
    /// - Returns: whether there is none left.
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

    /// Whether `pid` is a child of this table that had ended.
    func reap(pid: ProcessID) -> Bool {
        slots.slot(of: pid).map(reap) ?? false
    }

    /// Whether the child in `slot` had ended. Its observers hear of it in `tell`.
    func reap(_ slot: Int) -> Bool {
        let child = slots[slot]
        var ending = forkcore_ending()
        // What is left behind of one that is contained is not lost sight of.
        let endsGroup = child.hasGroup && (endsGroups && orphans == nil || child.stage != .running)
        // An errno other than ECHILD would be a kernel that has no wait4; the child stays in the table.
        guard forkcore_reap(child.pid, endsGroup, &ending) == 0, ending.state != FORKCORE_RUNNING else { return false }
        release(slot, ending)
        return true
    }

    /// Reaps one that no table knows; false if it has not ended.
    static func reap(stranger pid: ProcessID) -> Bool {
        var ending = forkcore_ending()
        return forkcore_reap(pid, false, &ending) == 0 && ending.state != FORKCORE_RUNNING
    }

    /// Whether there is something to tell of.
    var hasReports: Bool { !ended.isEmpty || !troubles.isEmpty }

    /// Tells all that hear of an end.
    func tellAll(_ exit: ChildExit) {
        noteExit(exit)
        onExit(exit)
    }

    /// Tells of what has ended, and of what does not. The observer may call this again: each is told once.
    @inline(__always)
    func tell(_ observe: (ChildExit) -> Void) {
        while let next = ended.next() { observe(ChildExit(next)) }
        while !troubles.isEmpty {
            let trouble = troubles.removeFirst()
            noteTrouble(trouble)
            onTrouble(trouble)
        }
    }

    /// The one place that signals.
    @discardableResult
    func signal(_ signal: Signal, at slot: Int, group: Bool) -> Bool {
        let child = slots[slot]
        let code = forkcore_kill(child.pid, group && child.hasGroup, signal.rawValue)
        if code == ECHILD {
            if reap(slot) { source.wake(at: .now) }  // somebody else has reaped it
        } else {
            noteSignal(signal, to: slot, refused: code == EPERM)
        }
        return code == 0
    }
}
