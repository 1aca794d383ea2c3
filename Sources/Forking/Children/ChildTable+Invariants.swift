// SPDX-License-Identifier: Apache-2.0

extension ChildTable {
    /// What always holds, checked after each change in debug builds:
    /// - reserved + live = count ≤ limit;
    /// - a live child stands in the table once, under its own pid;
    /// - who was told to end has a kill ahead, or behind.
    func checkInvariants() {
        assert(reserved >= 0 && count == live.count + reserved, "slots were given back twice")
        assert(count <= limit, "more children than the limit")
        assert(live.allSatisfy { $0.key == $0.value.pid && $0.key > 1 }, "a child stands under another's pid")
        assert(
            live.values.allSatisfy { ($0.stage == .terminating) == ($0.stage != .killed && $0.reason != .own) },
            "a child's stage and the reason for it disagree")
    }
}
