// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// Chooses the children for which wait4(2) is called.
extension ChildTable {
    /// Tries to reap each child, whether or not its end was announced. A caller that waits for all children must not
    /// depend on SIGCHLD: other code may have taken it, or discarded it by setting its disposition.
    func sweep() {
        requireParent()
        reapAll()
        source.wake(at: .now)  // to report what was found
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
}
