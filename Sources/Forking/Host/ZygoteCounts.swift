// SPDX-License-Identifier: Apache-2.0

/// Host: what is known of one zygote's work.
struct ZygoteCounts {
    let startedAt = Instant.now
    /// How many children it was told to fork.
    var ordered: Int64 = 0
    private(set) var tally = ZygoteTally()

    /// Takes what came with an answer, and returns what is new in it.
    ///
    /// Threads take answers in any order: what an older one tells is known already. And it came by way of a child,
    /// which may have made it up: what cannot be is not believed.
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
