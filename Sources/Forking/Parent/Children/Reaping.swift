// SPDX-License-Identifier: Apache-2.0
//
// How a child's end comes from the kernel to the observer. Whoever owns a child table: a parent, a zygote, or, by pidfd
// and under its lock, a zygote's host.

import CForkCore
import Glibc
import SystemPackage

/// Reports that children have ended, through one descriptor that a loop can poll.
///
/// SIGCHLD has one consumer in a process: a second signalfd would read nothing. So all tables that reap by signal share
/// one source, and collecting one of them collects all. A table that reaps by pidfd has a source of its own.
///
/// The descriptor is an epoll instance, which contains:
/// - SIGCHLD, or each child's pidfd;
/// - a timer, armed only while a child has a deadline or a sweep is due;
/// - the replies of a datagram server's children.
final class ReapSource {
    /// The kernel merges SIGCHLDs. Ends without a SIGCHLD of their own are found by death marks, but marks can be
    /// forged or missing. So a sweep runs this long after any SIGCHLD. Without exits there are no sweeps.
    private static let sweepInterval = Duration.seconds(1)
    /// In a table that contains descendants, the sweep for leftovers runs this long after children were made or have
    /// ended. Many ends cause one sweep.
    private static let orphanInterval = Duration.milliseconds(50)
    private static let repliesToken: UInt64 = .max - 2
    private static let timerToken: UInt64 = .max - 1
    private static let signalToken: UInt64 = .max

    private let poll: ParentDescriptor
    private let timer: ParentDescriptor
    private let signals: SignalDescriptor?
    /// SIGCHLD, in a source that uses pidfds: a leftover can end too, and has no pidfd at first.
    private var orphanSignals: SignalDescriptor?
    private let owner = forkcore_process()
    private(set) var tables: [TableReference] = []
    private var alarm: Instant?
    private var sweepDue: Instant?

    var descriptor: Int32 { poll.rawValue }

    /// False in a child. Its copies of the parent's tables are useless there, because its siblings are not its
    /// children.
    var isOurs: Bool { owner == forkcore_process() }

    /// Whether the source learns of ends by SIGCHLD. Then death marks must show which children it may mean.
    var needsMarks: Bool { signals != nil }

    init(bySignal: Bool) throws(ForkingError) {
        poll = try ParentDescriptor("epoll_create1", forkcore_poll_open)
        timer = try ParentDescriptor("timerfd_create", forkcore_timer_open)
        signals = bySignal ? try SignalDescriptor([.child]) : nil
        try check(forkcore_poll_add(poll.rawValue, timer.rawValue, Self.timerToken), "epoll_ctl")
        if let signals {
            try check(forkcore_poll_add(poll.rawValue, signals.rawValue, Self.signalToken), "epoll_ctl")
        }
    }

    // MARK: The tables of a source

    /// Only the first thread uses it, so it needs no lock.
    nonisolated(unsafe) private static weak var shared: ReapSource?

    /// The source for a new table.
    static func source(for reaping: ChildTable.Reaping) throws(ForkingError) -> ReapSource {
        switch reaping {
        case .signal: return try sharedSource()
        case .pidfd:
            _ = forkcore_keep_zombies()  // a SIGCHLD handler of other code does no harm here
            return try ReapSource(bySignal: false)
        }
    }

    /// The process's only source for SIGCHLD. A child that inherited its parent's source makes its own.
    private static func sharedSource() throws(ForkingError) -> ReapSource {
        let wayOut = "or make the table with reaping: .pidfd"
        guard forkcore_thread_id() == forkcore_process() else {
            throw .invalid("tables that reap by signal share one SIGCHLD: make them on the first thread, \(wayOut)")
        }
        if let shared, shared.isOurs { return shared }
        guard forkcore_keep_zombies() != EBUSY else {
            throw .invalid(
                "SIGCHLD has a handler in this process, which would no longer be called: remove it, \(wayOut)"
            )
        }
        if let thread = ThreadMasks.firstThatTakes(.child) {
            throw .invalid(
                "thread \(thread) of this process does not block SIGCHLD, and would take it from the table: block it "
                    + "before the first thread starts, \(wayOut)")
        }
        let source = try ReapSource(bySignal: true)
        shared = source
        return source
    }

    func attach(_ table: ChildTable) { tables.append(TableReference(table)) }

    func detach(_ table: ChildTable) { tables.removeAll { $0.stands(for: table) } }

    // MARK: Replies

    /// The replies of datagram servers' children, sent in each collection.
    private var replies: [Unmanaged<Replies>] = []

    func add(_ added: Replies, _ descriptor: Int32) throws(ForkingError) {
        try check(forkcore_poll_add(poll.rawValue, descriptor, Self.repliesToken), "epoll_ctl")
        replies.append(Unmanaged.passUnretained(added))
    }

    func remove(_ removed: Replies, _ descriptor: Int32) {
        forkcore_poll_remove(poll.rawValue, descriptor)
        replies.removeAll { $0.toOpaque() == Unmanaged.passUnretained(removed).toOpaque() }
    }

    // MARK: Watching

    /// Begins to watch the new child in `slot`. Returns its pidfd, or -1 if the source uses SIGCHLD.
    func watch(_ pid: ProcessID, _ slot: Int) throws(ForkingError) -> Int32 {
        guard signals == nil else { return -1 }
        var pidfd: Int32 = -1
        try check(forkcore_pidfd(pid, &pidfd), "pidfd_open")
        try watch(pidfd: pidfd, slot)
        return pidfd
    }

    /// Begins to watch the new child in `slot` by its pidfd. Closes the pidfd if that fails.
    func watch(pidfd: Int32, _ slot: Int) throws(ForkingError) {
        let code = forkcore_poll_add(poll.rawValue, pidfd, UInt64(slot))
        if code != 0 { forkcore_close(pidfd) }
        try check(code, "epoll_ctl")
        ParentOnly.add(pidfd)
    }

    /// Begins to listen for the ends of children that no table has forked.
    func hearOrphans() throws(ForkingError) {
        guard signals == nil, orphanSignals == nil else { return }
        let heard = try SignalDescriptor([.child])
        // Edge-triggered: one SIGCHLD stays pending until the sweep, and later ones merge with it. Otherwise the
        // SIGCHLD of each child would wake the loop.
        try check(forkcore_poll_add_edge(poll.rawValue, heard.rawValue, Self.signalToken), "epoll_ctl")
        orphanSignals = heard
    }

    /// Like `unwatch`, but leaves the descriptor open.
    func quitWatching(_ pidfd: Int32) { forkcore_poll_remove(poll.rawValue, pidfd) }

    func unwatch(_ pidfd: Int32) {
        guard isOurs else { return }
        forkcore_poll_remove(poll.rawValue, pidfd)
        ParentOnly.remove(pidfd)
        forkcore_close(pidfd)
    }

    /// Makes the descriptor readable at `deadline` at the latest.
    func wake(at deadline: Instant) {
        if let alarm, alarm <= deadline { return }
        alarm = deadline
        _ = forkcore_timer_set(timer.rawValue, max(1, deadline.nanoseconds))
    }
}

// What follows is in the order in which it runs. Loops use indices, because a loop over the array itself would retain it.

extension ChildTable {
    /// Reaps every child that has ended, ends those whose timeout has passed, and calls `onExit` for each end. Never
    /// waits. Parent.
    public func collect() { collect(telling: tellAll) }

    /// The same, with another observer for this table's children. Inlined, so that what the observer captures is not
    /// retained.
    @inline(__always)
    func collect(telling observe: (ChildExit) -> Void) {
        requireParent()
        source.collect()
        tell(observe)
        source.tellOthers()
    }
}

extension ReapSource {
    /// Reaps every ended child of every table, and handles the deadlines that have passed.
    fileprivate func collect() {
        for index in replies.indices { replies[index]._withUnsafeGuaranteedRef { $0.send() } }
        if signals == nil {
            collectByPidfd()
        } else {
            var hasReports = false
            signals!.take { _, child in
                hasReports = true
                // SIGCHLD names this child, so no search is needed.
                for index in tables.indices where tables[index].with({ $0.reap(pid: child) }) { break }
            }
            for index in tables.indices { tables[index].with { $0.reapMarked() } }
            if hasReports { scheduleSweep() }
        }
        let now = Instant.now
        if let alarm, alarm <= now { fireTimers(now) }
    }
}

extension ChildTable {
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

    func release(_ slot: Int, _ ending: forkcore_ending) {
        let child = slots[slot]
        if child.pidfd >= 0 { source.unwatch(child.pidfd) }
        if child.hold == .told { heldCount -= 1 }
        let execError = slots.execError(slot).pointee
        vacate(slot)
        closeSpawnedDescriptors()
        ended.append(EndedChild(child: child, ending: ending, execError: execError, at: .now))
        guard let orphans else { return }
        orphans.unseenEnds.value += 1
        guard child.stage != .running else { return }
        adopt()  // what it has left behind must end, too
        orphans.forget(child.pid)
    }

    func vacate(_ slot: Int) {
        if let marks { forkcore_marks_vacate(marks, slot) }
        orphans?.note(0, in: slot)
        slots.release(slot)
        checkInvariants()
    }

    /// Tries to reap the children that may have ended according to their marks.
    func reapMarked() {
        guard let marks else { return }
        var slot = 0
        while true {
            slot = forkcore_marks_next(marks, slot, slots.end)
            guard slot < slots.end else { return }
            if slots[slot].pid != 0, !reap(slot) { forkcore_marks_doubt(marks, slot) }
            slot += 1
        }
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

    /// Calls the server's and the user's observers.
    func tellAll(_ exit: ChildExit) {
        noteExit(exit)
        onExit(exit)
    }

    /// Whether there is something to report.
    var hasReports: Bool { !ended.isEmpty || !troubles.isEmpty }
}

extension ChildExit {
    init(_ ended: EndedChild) {
        let (child, ending) = (ended.child, ended.ending)
        let status: ExitStatus =
            switch ending.state {
            case FORKCORE_EXITED: .exited(code: ending.code)
            case FORKCORE_KILLED: .signaled(Signal(rawValue: ending.signal), dumpedCore: ending.core)
            default: .unknown
            }
        self.init(
            pid: child.pid, peer: child.peer, status: status, reason: child.reason,
            duration: ended.at - child.startedAt, isLeftover: child.isLeftover,
            usage: status == .unknown ? nil : ResourceUsage(ending),
            execError: ended.execError == 0 ? nil : Errno(rawValue: ended.execError), tag: child.tag)
    }
}

extension ReapSource {
    /// Calls the observers of all tables except the caller's, which has called its own.
    ///
    /// An observer may call back into this source, and release a table: so each table is looked up anew.
    fileprivate func tellOthers() {
        while let index = tables.indices.first(where: { tables[$0].with { $0.hasReports } }) {
            let table = tables[index].retained
            table.tell(table.tellAll)
        }
    }

    // MARK: By pidfd

    /// Handles ready descriptors in rounds, and stops after as many rounds as there can be children for: no pidfd is
    /// ready twice.
    private func collectByPidfd() {
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 16) { tokens in
            var rounds = 1 + tables.indices.reduce(0) { sum, index in sum + tables[index].with { $0.slots.count } } / 16
            var count = tokens.count
            while rounds > 0, count == tokens.count {
                guard forkcore_poll_ready(poll.rawValue, tokens.baseAddress, tokens.count, &count) == 0 else { return }
                for token in tokens.prefix(count) { take(token) }
                rounds -= 1
            }
        }
    }

    private func take(_ token: UInt64) {
        switch token {
        case Self.timerToken, Self.repliesToken: break
        case Self.signalToken: scheduleSweep()
        default: for index in tables.indices { tables[index].with { $0.reap(ready: Int(token)) } }  // it has one table
        }
    }

    // MARK: Timers, and what no event has reported

    func fireTimers(_ now: Instant) {
        if let due = sweepDue, due <= now {
            sweepDue = nil
            sweep()
        }
        var next = sweepDue
        for index in tables.indices { next = earlier(next, tables[index].with { $0.fireTimers(now) }) }
        alarm = nil
        if let next {
            wake(at: next)
        } else {
            _ = forkcore_timer_set(timer.rawValue, 0)
        }
    }

    func scheduleSweep() {
        guard sweepDue == nil else { return }
        let due = Instant.now + (orphanSignals == nil ? Self.sweepInterval : Self.orphanInterval)
        sweepDue = due
        wake(at: due)
    }

    /// Finds ended children that no mark reported: those whose mark was forged or never set, and those that other code
    /// has reaped.
    ///
    /// If any child of this process waits to be reaped, it may be one whose mark says that it is alive. So the source
    /// tries to reap each child by pid. (It may also be a child that other code has forked; each sweep then does the
    /// same until that child is reaped.) If no child waits, those whose mark says that they are alive are alive.
    private func sweep() {
        if let orphanSignals {
            orphanSignals.take { _, _ in }
            if let shared = Self.shared, shared.isOurs { shared.scheduleSweep() }  // some were for that source
            for index in tables.indices { tables[index].with { $0.lookAfterOrphans() } }
            if takesStrangers, reapStrangers() { sweepDue = .now + Self.sweepInterval }
            return
        }
        var waitable: ProcessID = 0
        let allAccountedFor = forkcore_peek(&waitable) == 0 && waitable == 0
        for index in tables.indices {
            tables[index].with {
                if allAccountedFor { $0.reapDoubtful() } else { $0.reapAll() }
                $0.lookAfterOrphans()
                $0.lookForHeld()
            }
        }
        if !allAccountedFor, reapStrangers() { sweepDue = .now + Self.sweepInterval }
    }
}

extension ChildTable {
    /// Tries to reap each child whose mark does not say that it is alive.
    func reapDoubtful() {
        forEachChild { slot, child in
            guard let marks, !forkcore_marks_holds(marks, slot, child.pid) else { return }
            forkcore_marks_trust(marks, slot)
            _ = reap(slot)
        }
    }

    /// Tries to reap each child by pid.
    func reapAll() {
        forEachChild { slot, _ in _ = reap(slot) }
    }

    /// Reaps a process that is in no table. Returns false if it has not ended.
    static func reap(stranger pid: ProcessID) -> Bool {
        var ending = forkcore_ending()
        return forkcore_reap(pid, false, &ending) == 0 && ending.state != FORKCORE_RUNNING
    }
}
