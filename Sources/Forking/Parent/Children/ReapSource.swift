// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// Where the news comes from that children have ended, as one descriptor that a loop can poll.
///
/// SIGCHLD has one consumer in a process: a second signalfd would read nothing. So all tables that reap by signal share
/// one source, and whoever collects, collects for all of them. A table that reaps by pidfd has a source of its own.
///
/// The descriptor is an epoll instance, which stands for:
/// - SIGCHLD, or each child's pidfd;
/// - a timer, armed only while a child has a deadline or a sweep is due.
final class ReapSource {
    /// The kernel merges SIGCHLDs; the ends that hid behind each other are found by their death marks. But marks can be
    /// forged or missing. So after any SIGCHLD, this much later, it is looked for what they did not tell of. With no
    /// exits there are no sweeps.
    private static let sweepInterval = Duration.seconds(1)
    /// And this much later for what was left behind, which nobody else knows of. Many ends make one look.
    private static let orphanInterval = Duration.milliseconds(50)
    private static let repliesToken: UInt64 = .max - 2
    private static let timerToken: UInt64 = .max - 1
    private static let signalToken: UInt64 = .max

    private let poll: ParentDescriptor
    private let timer: ParentDescriptor
    private let signals: SignalDescriptor?
    /// Where pidfds tell of children: SIGCHLD, as what was left behind ends as well, and has none yet.
    private var orphanSignals: SignalDescriptor?
    private let owner = forkcore_process()
    private(set) var tables: [TableReference] = []
    private var alarm: Instant?
    private var sweepDue: Instant?

    var descriptor: Int32 { poll.rawValue }

    /// False in a child, whose copy of its parent's tables is of no use: its siblings are not its children.
    var isOurs: Bool { owner == forkcore_process() }

    /// Whether it learns of ends by SIGCHLD, so that death marks have to tell which children it may mean.
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

    /// Only the first thread looks at it, so nothing needs to guard it.
    nonisolated(unsafe) private static weak var shared: ReapSource?

    /// The source for a new table.
    static func source(for reaping: ChildTable.Reaping) throws(ForkingError) -> ReapSource {
        switch reaping {
        case .signal: return try sharedSource()
        case .pidfd:
            _ = forkcore_keep_zombies()  // a handler for SIGCHLD that somebody else installed does no harm here
            return try ReapSource(bySignal: false)
        }
    }

    /// The process's one source for SIGCHLD. A child that inherited its parent's makes one of its own.
    private static func sharedSource() throws(ForkingError) -> ReapSource {
        let wayOut = "or make the table with reaping: .pidfd"
        guard forkcore_thread_id() == forkcore_process() else {
            throw .invalid("tables that reap by signal share one SIGCHLD: make them on the first thread, \(wayOut)")
        }
        if let shared, shared.isOurs { return shared }
        guard forkcore_keep_zombies() != EBUSY else {
            throw .invalid(
                "SIGCHLD has a handler in this process, which would get nothing any more: remove it, \(wayOut)"
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

    // MARK: What children say

    /// Of servers of datagrams: what their children answer is sent by whoever collects.
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

    /// Begins to watch the new child in `slot` by a pidfd, and returns that; -1 when SIGCHLD does it.
    func watch(_ pid: ProcessID, _ slot: Int) throws(ForkingError) -> Int32 {
        guard signals == nil else { return -1 }
        var pidfd: Int32 = -1
        try check(forkcore_pidfd(pid, &pidfd), "pidfd_open")
        try watch(pidfd: pidfd, slot)
        return pidfd
    }

    /// Begins to watch the new child in `slot` by its pidfd, which is closed if that fails.
    func watch(pidfd: Int32, _ slot: Int) throws(ForkingError) {
        let code = forkcore_poll_add(poll.rawValue, pidfd, UInt64(slot))
        if code != 0 { forkcore_close(pidfd) }
        try check(code, "epoll_ctl")
        ParentOnly.add(pidfd)
    }

    /// Begins to look for children that nobody forked here, and that were left behind.
    func hearOrphans() throws(ForkingError) {
        guard signals == nil, orphanSignals == nil else { return }
        let heard = try SignalDescriptor([.child])
        // One is left pending until then, and hides those that come meanwhile: else each child's would wake us.
        try check(forkcore_poll_add_edge(poll.rawValue, heard.rawValue, Self.signalToken), "epoll_ctl")
        orphanSignals = heard
    }

    /// As `unwatch`, but the descriptor stays.
    func quitWatching(_ pidfd: Int32) { forkcore_poll_remove(poll.rawValue, pidfd) }

    func unwatch(_ pidfd: Int32) {
        guard isOurs else { return }
        forkcore_poll_remove(poll.rawValue, pidfd)
        ParentOnly.remove(pidfd)
        forkcore_close(pidfd)
    }

    /// Makes the descriptor readable at `deadline`, or earlier.
    func wake(at deadline: Instant) {
        if let alarm, alarm <= deadline { return }
        alarm = deadline
        _ = forkcore_timer_set(timer.rawValue, max(1, deadline.nanoseconds))
    }

    // MARK: Collecting

    /// Reaps every child of every table that has ended, and takes the deadlines that have come.
    func reap() {
        for index in replies.indices { replies[index]._withUnsafeGuaranteedRef { $0.send() } }
        if signals == nil {
            collectByPidfd()
        } else {
            collectBySignal()
        }
        let now = Instant.now
        if let alarm, alarm <= now { fireTimers(now) }
    }

    /// Tells the observers of tables other than the one that has told its own.
    ///
    /// An observer may call anything here again, and let go of a table: so each is found anew.
    func tellOthers() {
        while let index = tables.indices.first(where: { tables[$0].with { $0.hasReports } }) {
            let table = tables[index].retained
            table.tell(table.tellAll)
        }
    }

    // Tables are found by number: a loop over the list itself would count as a reference to it.

    private func collectBySignal() {
        var hasReports = false
        signals!.take { _, child in
            hasReports = true
            // The one that SIGCHLD names is known for free.
            for index in tables.indices where tables[index].with({ $0.reap(pid: child) }) { break }
        }
        for index in tables.indices { tables[index].with { $0.reapMarked() } }
        if hasReports { scheduleSweep() }
    }

    func scheduleSweep() {
        guard sweepDue == nil else { return }
        let due = Instant.now + (orphanSignals == nil ? Self.sweepInterval : Self.orphanInterval)
        sweepDue = due
        wake(at: due)
    }

    /// One round of what is ready, and as many more as there can be children for: none comes twice.
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
        default: for index in tables.indices { tables[index].with { $0.reap(ready: Int(token)) } }  // it has but one
        }
    }

    /// Finds whom no mark told of: children whose mark was forged or never set, and children of ours that somebody else
    /// has reaped.
    ///
    /// If any child of this process waits to be reaped, it may be one whose mark says that it lives, so that each has
    /// to be asked for by name. (It may also be a foreign one; as long as it waits, so it goes on.) If none does, those
    /// whose mark says that they live do live.
    private func sweep() {
        if let orphanSignals {
            orphanSignals.take { _, _ in }
            if let shared = Self.shared, shared.isOurs { shared.scheduleSweep() }  // some were meant for that one
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

    private func fireTimers(_ now: Instant) {
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
}
