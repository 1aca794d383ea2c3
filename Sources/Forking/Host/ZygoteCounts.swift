// SPDX-License-Identifier: Apache-2.0

/// Host: the work of its zygotes, one after the other, and what of it was reported.
struct ZygoteCounts {
    private var shared: SharedTally?
    private var reported = ZygoteTally()
    /// Work of the zygote before.
    private var rest = Zygote.Work()

    /// The counters of the zygote that was started last, even if it has ended; zeros if they could not be had.
    var tally: ZygoteTally { shared?.value ?? ZygoteTally() }

    /// Another zygote counts from now on.
    mutating func begin(_ next: SharedTally?) {
        rest = takeWork()
        shared = next
        reported = ZygoteTally()
    }

    /// The work since the last call of this.
    mutating func takeWork() -> Zygote.Work {
        let now = tally
        var work = rest
        work.forks += Int(now.forked - reported.forked)
        work.reaped += Int(now.reaped - reported.reaped)
        work.reapTime += .nanoseconds(now.reaping - reported.reaping)
        rest = Zygote.Work()
        reported = now
        return work
    }
}
