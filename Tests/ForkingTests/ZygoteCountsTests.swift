// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Testing

@testable import Forking

@Suite("What a zygote has done")
struct ZygoteCountsTests {
    /// The zygote's view and the host's of one tally.
    private func tallies() throws -> (zygote: SharedTally, host: SharedTally) {
        let file = try OwnedDescriptor("memfd_create") { forkcore_memory_file("tally", $0) }
        let zygote = try SharedTally(file.rawValue, isZygote: true)
        return (zygote, try SharedTally(file.rawValue, isZygote: false))
    }

    @Test("work is reported once")
    func once() throws {
        let (zygote, host) = try tallies()
        var counts = ZygoteCounts()
        counts.begin(host)
        #expect(counts.takeWork() == Zygote.Work())
        zygote.value = ZygoteTally(alive: 2, forked: 5, reaped: 3, reaping: 700)
        #expect(counts.tally == zygote.value)
        #expect(counts.takeWork() == Zygote.Work(forks: 5, reaped: 3, reapTime: .nanoseconds(700)))
        #expect(counts.takeWork() == Zygote.Work())
        zygote.value = ZygoteTally(alive: 1, forked: 5, reaped: 4, reaping: 900)
        #expect(counts.takeWork() == Zygote.Work(forks: 0, reaped: 1, reapTime: .nanoseconds(200)))
    }

    @Test("what a lost zygote had done is reported with the next one's work")
    func lost() throws {
        let (first, firstSeen) = try tallies()
        let (second, secondSeen) = try tallies()
        var counts = ZygoteCounts()
        counts.begin(firstSeen)
        first.value.forked = 3
        _ = counts.takeWork()
        first.value.forked = 5
        counts.begin(secondSeen)
        second.value.forked = 1
        #expect(counts.takeWork() == Zygote.Work(forks: 3))
        #expect(counts.takeWork() == Zygote.Work())
    }
}
