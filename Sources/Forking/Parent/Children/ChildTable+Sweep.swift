// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// Which children are asked whether they have ended.
extension ChildTable {
    /// Looks for each child, whether or not news of its end has come: who waits for all depends on no SIGCHLD that
    /// somebody else may have taken, or thrown away by setting it to its default.
    func sweep() {
        requireParent()
        reapAll()
        source.wake(at: .now)  // to tell of what was found
    }

    /// Asks for those that may have ended, as their marks say.
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

    /// Asks for each that its mark does not say is alive.
    func reapDoubtful() {
        forEachChild { slot, child in
            guard let marks, !forkcore_marks_holds(marks, slot, child.pid) else { return }
            forkcore_marks_trust(marks, slot)
            _ = reap(slot)
        }
    }

    /// Asks for each by name.
    func reapAll() {
        forEachChild { slot, _ in _ = reap(slot) }
    }
}
