// SPDX-License-Identifier: Apache-2.0

/// Host: one zygote's work, as its replies report it.
struct ZygoteCounts {
    let startedAt = Instant.now
    /// Fork requests sent to it.
    var ordered: Int64 = 0
    private(set) var tally = ZygoteTally()

    /// Takes the tally that came with a reply, and returns what it adds.
    ///
    /// Threads receive replies in any order, so an older tally adds nothing. A tally passes through a child, which may
    /// have forged it: impossible values are ignored.
    mutating func take(_ told: ZygoteTally) -> Zygote.Work {
        guard (tally.forked...ordered).contains(told.forked), (tally.reaped...ordered).contains(told.reaped),
            (0...ordered).contains(told.alive), told.reaping >= tally.reaping,
            told.reaping <= (.now - startedAt).inNanoseconds
        else { return Zygote.Work() }
        defer { tally = told }
        return Zygote.Work(
            forks: Int(told.forked - tally.forked), reaped: Int(told.reaped - tally.reaped),
            reapTime: .nanoseconds(told.reaping - tally.reaping))
    }
}
