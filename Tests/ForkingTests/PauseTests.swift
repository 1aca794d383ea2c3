// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Pauses")
struct PauseTests {
    private let start = Instant(nanoseconds: 1_000)

    @Test("there is none until one begins, and it is over when its time has come, until it is ended")
    func life() {
        var pause = Pause()
        let end = start + .milliseconds(50), before = Instant(nanoseconds: end.nanoseconds - 1)
        #expect(!pause.isOn && pause.until == nil && !pause.isOver(at: end))

        pause.begin(until: end)
        #expect(pause.isOn && pause.until == end && !pause.isOver(at: before) && pause.isOver(at: end))
        pause.fireTimers(before)
        #expect(pause.isOn)
        pause.fireTimers(end)
        #expect(!pause.isOn && pause.until == nil && !pause.isOver(at: end))
    }

    @Test("one that is ended early is never over")
    func early() {
        var pause = Pause()
        pause.begin(until: start)
        pause.end()
        #expect(!pause.isOn && pause.until == nil && !pause.isOver(at: start))
    }

    @Test("another takes its place, be it shorter")
    func again() {
        var pause = Pause()
        pause.begin(until: start + .seconds(2))
        pause.begin(until: start + .seconds(1))
        #expect(pause.until == start + .seconds(1) && pause.isOver(at: start + .seconds(1)))
    }

    @Test("the clock is not read where there is none")
    func clock() {
        var pause = Pause()
        var reads = 0
        func now() -> Instant {
            reads += 1
            return start
        }
        let isOverBefore = pause.isOver(at: now())
        #expect(!isOverBefore && reads == 0)
        pause.begin(until: start)
        let isOver = pause.isOver(at: now())
        #expect(isOver && reads == 1)
    }
}
