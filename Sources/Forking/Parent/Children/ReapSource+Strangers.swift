// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// Strangers: processes and threads that this process must wait for, although no table has forked them.
///
/// A process can make another its parent's child (clone(2), CLONE_PARENT). Orphans become children of process 1 or of a
/// subreaper (prctl(2)). And a thread that made this process its tracer (ptrace(2)) must be waited for, or its process
/// cannot be reaped.
extension ReapSource {
    /// The maximum in one pass. The next pass reaps the rest.
    private static let atOnce = 1000

    /// Whether this source reaps all strangers.
    var takesStrangers: Bool { tables.contains { $0.with { $0.reapsStrangers } } }

    /// Reaps strangers that have ended: threads that children made this process trace, and all others if a table was
    /// asked to.
    ///
    /// The kernel shows one at a time: a child that other code of this process has forked hides those behind it.
    /// - Returns: whether to look again soon.
    func reapStrangers() -> Bool {
        let takesAll = takesStrangers
        for _ in 0..<Self.atOnce {
            var pid: ProcessID = 0
            guard forkcore_peek(&pid) == 0, pid != 0 else { return false }
            if let table = TableReference.having(pid)?.retained {
                guard takesAll || table.source === self, table.reap(pid: pid) else { return takesAll }
                table.source.wake(at: .now)  // to report it
            } else {
                guard takesAll || TableReference.having(forkcore_process_of(pid)) != nil else { return false }
                guard ChildTable.reap(stranger: pid) else { return true }  // it was stopped, and gets SIGKILL
            }
        }
        return true
    }
}

extension ChildTable {
    /// Makes this table also reap ended processes that became children of this process although no table has forked
    /// them: those that a child made so (clone(2) with CLONE_PARENT), and orphans, if this process is process 1 of its
    /// namespace or a subreaper (prctl(2)). Otherwise they stay zombies until this process ends. They are not reported.
    /// Parent.
    ///
    /// Use it only if all tables of this process are used on this thread, and no other code of it waits for children of
    /// its own: this table would reap them first.
    /// - Throws: `ForkingError.Code.invalid` if this process cannot take SIGCHLD, which announces them; `.system` if a
    ///   system call fails.
    public func reapStrangers() throws(ForkingError) {
        requireParent()
        try source.hearOrphans()
        reapsStrangers = true
    }
}
