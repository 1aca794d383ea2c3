// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Listeners that programs have")
struct LentListenersTests {
    private var generator = SystemRandomNumberGenerator()
    private var lent = LentListeners()
    private let start = Instant(nanoseconds: 1_000_000_000)

    @Test("one is looked after again a moment after its program has ended well")
    mutating func success() {
        lent.lend(7, to: 100)
        #expect(lent.next == nil)
        lent.end(100, failed: false, at: start, using: &generator)
        #expect(lent.next == start + LentListeners.pause)
        #expect(lent.due(at: start) == [])
        #expect(lent.due(at: start + LentListeners.pause) == [7])
        #expect(lent.next == nil && lent.due(at: start + .seconds(60)) == [])
    }

    @Test("a child that had none changes nothing")
    mutating func other() {
        lent.lend(7, to: 100)
        lent.end(101, failed: true, at: start, using: &generator)
        #expect(lent.next == nil)
    }

    @Test("after failures in a row the wait doubles, for that listener alone, until one ends well")
    mutating func failures() {
        var waits: [Double] = []
        var now = start
        for pid in Int32(1)...5 {
            lent.lend(7, to: pid)
            lent.end(pid, failed: pid < 5, at: now, using: &generator)
            let next = lent.next ?? now
            waits.append(Double((next - now).inNanoseconds) / 1e9)
            now = next
            #expect(lent.due(at: now) == [7])
        }
        for (wait, expected) in zip(waits, [0.1, 0.2, 0.4, 0.8]) {
            #expect(abs(wait - expected) <= expected * 0.2 + 0.001)
        }
        #expect(waits[4] == 0.05)
        lent.lend(8, to: 9)
        lent.end(9, failed: true, at: now, using: &generator)
        #expect(lent.next! - now <= .milliseconds(121))
    }
}
