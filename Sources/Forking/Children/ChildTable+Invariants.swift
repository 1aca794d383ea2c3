// SPDX-License-Identifier: Apache-2.0

extension ChildTable {
    /// What always holds, checked after each change in debug builds:
    /// - reserved + live = count ≤ limit;
    /// - a live child stands in one slot, and is found there by its pid;
    /// - who was told to end has a kill ahead, or behind.
    func checkInvariants() {
        assert(
            {
                var live = 0
                forEachChild { slot, child in
                    live += 1
                    assert(child.pid > 1 && slots.slot(of: child.pid) == slot, "a child is not found by its pid")
                    assert(
                        (child.stage == .terminating) == (child.stage != .killed && child.reason != .own),
                        "a child's stage and the reason for it disagree")
                }
                assert(reserved >= 0 && count == live + reserved, "slots were given back twice")
                assert(count <= limit, "more children than the limit")
                return true
            }())
    }
}
