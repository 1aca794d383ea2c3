// SPDX-License-Identifier: Apache-2.0

/// A time during which something is not tried, because it failed or was just done. Policy only: the owner checks in
/// each turn whether it is over, and wakes at `until`.
///
/// It is written only when it changes, because a server's pauses are in memory that it shares with its children. Checks
/// do not access it for writing either: Swift would record such an access in memory, too.
struct Pause {
    /// When the pause is over; nil if there is none.
    private(set) var until: Instant?

    var isOn: Bool { until != nil }

    /// Begins a pause, which replaces one in progress.
    mutating func begin(until end: Instant) { until = end }

    /// Ends it early.
    mutating func end() {
        if isOn { until = nil }
    }

    /// Whether `until` has passed, and the pause was not ended yet.
    func isOver(at now: @autoclosure () -> Instant) -> Bool {
        until.map { $0 <= now() } ?? false
    }

    /// Ends it if `until` has passed.
    mutating func fireTimers(_ now: Instant) {
        if isOver(at: now) { until = nil }
    }
}
