// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing

@testable import Forking

@Suite("What a zygote says of its work")
struct ZygoteCountsTests {
    /// One that was told to fork ten children, a moment ago.
    private var counts: ZygoteCounts {
        var counts = ZygoteCounts()
        counts.ordered = 10
        usleep(1000)
        return counts
    }

    private func tally(_ alive: Int64, _ forked: Int64, _ reaped: Int64, _ reaping: Int64) -> ZygoteTally {
        ZygoteTally(alive: alive, forked: forked, reaped: reaped, reaping: reaping)
    }

    @Test("what is new is told once")
    func news() {
        var counts = counts
        #expect(counts.take(tally(1, 1, 0, 0)) == Zygote.Work(forks: 1, reaped: 0, reapTime: .zero))
        #expect(counts.take(tally(1, 1, 0, 0)) == Zygote.Work())
        #expect(counts.take(tally(2, 5, 3, 700)) == Zygote.Work(forks: 4, reaped: 3, reapTime: .nanoseconds(700)))
        #expect(counts.take(tally(1, 5, 4, 900)) == Zygote.Work(forks: 0, reaped: 1, reapTime: .nanoseconds(200)))
        #expect(counts.tally.alive == 1)
    }

    @Test("what was told before, by an answer that is taken late, is known")
    func late() {
        var counts = counts
        _ = counts.take(tally(2, 5, 3, 700))
        for older in [tally(4, 4, 3, 700), tally(2, 5, 2, 700), tally(2, 5, 3, 600)] {
            #expect(counts.take(older) == Zygote.Work())
            #expect(counts.tally.forked == 5 && counts.tally.reaped == 3 && counts.tally.reaping == 700)
        }
    }

    @Test("what cannot be is not believed")
    func lies() {
        var counts = counts
        let long = Int64(3600) * 1_000_000_000
        for lie in [
            tally(0, 11, 0, 0), tally(0, 0, 11, 0), tally(11, 0, 0, 0), tally(-1, 0, 0, 0), tally(0, -1, 0, 0),
            tally(0, 0, -1, 0), tally(0, 1, 1, -1), tally(0, 1, 1, long), tally(.max, .max, .max, .max),
            tally(.min, .min, .min, .min),
        ] {
            #expect(counts.take(lie) == Zygote.Work(), "\(lie)")
        }
        #expect(counts.take(tally(0, 10, 10, 10)).forks == 10)
    }
}
