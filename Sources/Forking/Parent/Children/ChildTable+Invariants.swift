// SPDX-License-Identifier: Apache-2.0

extension ChildTable {
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
