// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// Processes, and threads, that are this process's to wait for though no table has forked them.
///
/// A process can make another its parent's child (clone(2), CLONE_PARENT), orphans land on process 1 and on subreapers
/// (prctl(2)), and a thread that had us trace it (ptrace(2)) is ours to wait for, or its process cannot be reaped.
extension ReapSource {
    /// In one go; who is left is found in the next.
    private static let atOnce = 1000

    /// Whether whoever is nobody's is this source's.
    var takesStrangers: Bool { tables.contains { $0.with { $0.reapsStrangers } } }

    /// Reaps those that have ended and are no table's: threads that our children had us trace, and all others if asked
    /// to.
    ///
    /// The kernel shows one at a time, so that a child of somebody else's in this process hides whoever stands behind
    /// it.
    /// - Returns: whether to look again soon.
    func reapStrangers() -> Bool {
        let takesAll = takesStrangers
        for _ in 0..<Self.atOnce {
            var pid: ProcessID = 0
            guard forkcore_peek(&pid) == 0, pid != 0 else { return false }
            if let table = TableReference.having(pid)?.retained {
                guard takesAll || table.source === self, table.reap(pid: pid) else { return takesAll }
                table.source.wake(at: .now)  // to tell of it
            } else {
                guard takesAll || TableReference.having(forkcore_process_of(pid)) != nil else { return false }
                guard ChildTable.reap(stranger: pid) else { return true }  // it was stopped, and is killed
            }
        }
        return true
    }
}

extension ChildTable {
    /// From now on also reaps ended processes that became this one's children though no table has forked them: those
    /// that a child made so (clone(2) with CLONE_PARENT), and orphans, where this is process 1 of its namespace or a
    /// subreaper (prctl(2)). Without it they stay as zombies until this process ends. Nobody is told of them.
    ///
    /// Only where all tables of this process are used on this thread, and where nobody else in it waits for children of
    /// his own: they are taken from him.
    /// - Throws: `ForkingError.Code.invalid` if this process cannot take SIGCHLD, which tells of them; `.system`.
    public func reapStrangers() throws(ForkingError) {
        requireParent()
        try source.hearOrphans()
        reapsStrangers = true
    }
}
