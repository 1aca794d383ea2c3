// SPDX-License-Identifier: Apache-2.0

/// A time in which something is not tried, after it failed or was done just now. Policy alone: whoever has it asks in
/// each turn whether it is over, and wakes at `until` for that.
///
/// Nothing is written where nothing changes: of a server's, each child has a copy. To ask is no access for writing,
/// either, which the language would note in memory of that kind.
struct Pause {
    /// When it is over; nil if there is none.
    private(set) var until: Instant?

    var isOn: Bool { until != nil }

    /// Begins one, in place of another that may be going on.
    mutating func begin(until end: Instant) { until = end }

    /// Ends it early.
    mutating func end() {
        if isOn { until = nil }
    }

    /// Whether its time has come, and nobody has ended it yet.
    func isOver(at now: @autoclosure () -> Instant) -> Bool {
        until.map { $0 <= now() } ?? false
    }

    /// Ends it if its time has come.
    mutating func fireTimers(_ now: Instant) {
        if isOver(at: now) { until = nil }
    }
}
