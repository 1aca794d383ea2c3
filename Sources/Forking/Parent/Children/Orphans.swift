// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// Finds descendants of children that have become children of this process, for a table that contains them. Parent.
final class Orphans {
    /// The options that apply to leftovers.
    let options: ChildOptions
    /// How many children have ended since the last search. Each may have left processes behind.
    let unseenEnds: ParentCell<Int>
    /// The stage to which leftovers are moved when they are found, once all children were told to end.
    var fate: Child.Stage = .running
    /// For each child that was told to end, the descendants that were sent the same signal, and that may outlive it.
    private var doomed: [ProcessID: Set<ProcessID>] = [:]

    private let list: ParentDescriptor
    private let session = getsid(0)
    private var watcher: OpaquePointer?
    private let owner = forkcore_process()

    /// - Parameter capacity: the number of slots in the table.
    init(_ options: ChildOptions, capacity: Int) throws(ForkingError) {
        self.options = options
        list = try ParentDescriptor("open /proc/self/task/children", forkcore_children_open)
        unseenEnds = try ParentCell(0)
        try check(forkcore_take_orphans(), "prctl")
        guard options.diesWithParent else { return }
        try check(forkcore_watcher_open(capacity, &watcher), "fork")
        ParentOnly.add(forkcore_watcher_pidfd(watcher))
    }

    deinit { dismissWatcher() }

    /// Ends the watcher, which would kill the children when this process dies.
    func dismissWatcher() {
        guard let watcher, owner == forkcore_process() else { return }
        ParentOnly.remove(forkcore_watcher_pidfd(watcher))
        forkcore_watcher_close(watcher)
        self.watcher = nil
    }

    /// The watcher; nil if there is none.
    var watching: OpaquePointer? { watcher.flatMap { forkcore_watcher_pidfd($0) >= 0 ? $0 : nil } }

    /// Starts another watcher if the old one was killed.
    func keepWatcher() {
        guard let watcher else { return }
        let before = forkcore_watcher_pidfd(watcher)
        forkcore_watcher_renew(watcher)
        let after = forkcore_watcher_pidfd(watcher)
        guard before != after else { return }
        if before >= 0 { ParentOnly.remove(before) }
        if after >= 0 { ParentOnly.add(after) }
    }

    /// Enters a process that the watcher kills when this process dies; 0 removes it.
    func note(_ pid: ProcessID, in slot: Int) {
        if let watcher { forkcore_watcher_roster(watcher)[slot] = pid }
    }

    /// Calls `body` with each child of this process.
    func forEachChild(_ body: (ProcessID) -> Void) {
        withUnsafeTemporaryAllocation(of: pid_t.self, capacity: 1024) { pids in
            var offset: Int64 = 0
            var count = 0
            while forkcore_children_read(list.rawValue, &offset, pids.baseAddress, pids.count, &count) == 0, count > 0 {
                pids.prefix(count).forEach(body)
            }
        }
    }

    /// Reads about a process if it must be a leftover. Otherwise returns nil: a child with this process's session can
    /// be one that other code has forked, and a descendant that has left that session cannot come back.
    func look(at pid: ProcessID) -> forkcore_process_info? {
        var info = forkcore_process_info()
        guard forkcore_process_look(pid, &info) == 0, info.parent == owner, info.session != session else { return nil }
        return info
    }

    /// Sends a signal to all descendants of a live child, except those in the group that it leads: that group is
    /// signalled as a whole, and no process must get the signal twice.
    func signal(_ signal: Signal, toDescendantsOf pid: ProcessID) {
        withUnsafeTemporaryAllocation(of: pid_t.self, capacity: Int(FORKCORE_DESCENDANTS)) { pids in
            var count = 0
            _ = forkcore_descendants(pid, signal.rawValue, pid, pids.baseAddress, pids.count, &count)
            if count > 0 { doomed[pid, default: []].formUnion(pids.prefix(count)) }
        }
    }

    /// Whether a leftover was told to end together with the child that left it behind. If so, its own leftovers may
    /// have been told too, which is remembered under its pid.
    func wasTold(_ pid: ProcessID) -> Bool {
        guard let told = doomed.first(where: { $1.contains(pid) })?.value else { return false }
        doomed[pid] = told
        return true
    }

    /// Forgets the descendants of a child: each has a parent that is alive, or was found by now.
    func forget(_ pid: ProcessID) { doomed[pid] = nil }
}
