// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// How a table that contains its children's descendants finds those who have become children of this process. Parent.
final class Orphans {
    /// What they may do.
    let options: ChildOptions
    /// Children that have ended since it was looked last: each may have left somebody behind.
    let unseenEnds: ParentCell<Int>
    /// What is to happen to those that turn up, once all are to end.
    var fate: Child.Stage = .running
    /// Descendants of children that were told to end, as they were themselves, but may outlive those: by child.
    private var doomed: [ProcessID: Set<ProcessID>] = [:]

    private let list: ParentDescriptor
    private let session = getsid(0)
    private var watcher: OpaquePointer?
    private let owner = forkcore_process()

    /// - Parameter capacity: of how many slots the table has.
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

    /// The process that ends the children with this one has nothing to do any more.
    func dismissWatcher() {
        guard let watcher, owner == forkcore_process() else { return }
        ParentOnly.remove(forkcore_watcher_pidfd(watcher))
        forkcore_watcher_close(watcher)
        self.watcher = nil
    }

    /// Who ends the children with this process; nil if nobody does.
    var watching: OpaquePointer? { watcher.flatMap { forkcore_watcher_pidfd($0) >= 0 ? $0 : nil } }

    /// The watcher may have been killed: then there is another.
    func keepWatcher() {
        guard let watcher else { return }
        let before = forkcore_watcher_pidfd(watcher)
        forkcore_watcher_renew(watcher)
        let after = forkcore_watcher_pidfd(watcher)
        guard before != after else { return }
        if before >= 0 { ParentOnly.remove(before) }
        if after >= 0 { ParentOnly.add(after) }
    }

    /// Whose end this process's end is to be.
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

    /// What is known of a process that can only be one that was left behind; nil if it need not be: nobody comes back
    /// into this process's session.
    func look(at pid: ProcessID) -> forkcore_process_info? {
        var info = forkcore_process_info()
        guard forkcore_process_look(pid, &info) == 0, info.parent == owner, info.session != session else { return nil }
        return info
    }

    /// Sends a signal to all that descends from a child that lives, but for those of the group that it leads: that gets
    /// it in one piece, and nobody twice.
    func signal(_ signal: Signal, toDescendantsOf pid: ProcessID) {
        withUnsafeTemporaryAllocation(of: pid_t.self, capacity: Int(FORKCORE_DESCENDANTS)) { pids in
            var count = 0
            _ = forkcore_descendants(pid, signal.rawValue, pid, pids.baseAddress, pids.count, &count)
            if count > 0 { doomed[pid, default: []].formUnion(pids.prefix(count)) }
        }
    }

    /// Whether it was told to end with a child that has left it behind. Then it may leave others behind that were told,
    /// too.
    func wasTold(_ pid: ProcessID) -> Bool {
        guard let told = doomed.first(where: { $1.contains(pid) })?.value else { return false }
        doomed[pid] = told
        return true
    }

    /// What that child had started has a parent that lives, or was found by now.
    func forget(_ pid: ProcessID) { doomed[pid] = nil }
}
