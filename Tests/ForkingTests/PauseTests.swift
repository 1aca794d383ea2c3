// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Pauses")
struct PauseTests {
    private let start = Instant(nanoseconds: 1_000)

    @Test("there is none until one begins, and it ends when its time has come, once")
    func life() {
        var pause = Pause()
        let end = start + .milliseconds(50)
        let endsBefore = pause.endIfOver(at: end)
        #expect(!endsBefore && !pause.isOn && pause.until == nil)

        pause.begin(until: end)
        let endsEarly = pause.endIfOver(at: Instant(nanoseconds: end.nanoseconds - 1))
        #expect(!endsEarly && pause.isOn && pause.until == end)
        let ends = pause.endIfOver(at: end)
        #expect(ends && !pause.isOn && pause.until == nil)
        let endsAgain = pause.endIfOver(at: end)
        #expect(!endsAgain)
    }

    @Test("one that is ended early does not end again by itself")
    func early() {
        var pause = Pause()
        pause.begin(until: start)
        pause.end()
        let ends = pause.endIfOver(at: start)
        #expect(!ends && !pause.isOn && pause.until == nil)
    }

    @Test("another takes its place, be it shorter")
    func again() {
        var pause = Pause()
        pause.begin(until: start + .seconds(2))
        pause.begin(until: start + .seconds(1))
        #expect(pause.until == start + .seconds(1))
        let ends = pause.endIfOver(at: start + .seconds(1))
        #expect(ends)
    }

    @Test("the clock is not read where there is none")
    func clock() {
        var pause = Pause()
        var reads = 0
        func now() -> Instant {
            reads += 1
            return start
        }
        let endsBefore = pause.endIfOver(at: now())
        #expect(!endsBefore && reads == 0)
        pause.begin(until: start)
        let ends = pause.endIfOver(at: now())
        #expect(ends && reads == 1)
    }
}
