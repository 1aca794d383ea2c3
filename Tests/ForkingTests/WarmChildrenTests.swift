// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("When a host asks for warm children")
struct WarmChildrenTests {
    private func ready(_ count: Int, of wanted: Int) -> WarmChildren {
        var warm = WarmChildren(wanted: wanted)
        warm.noteStarted()
        warm.noteForked(wanted)
        for _ in count..<wanted { warm.noteTaken() }
        return warm
    }

    @Test("a new zygote forks all of them without being asked") func start() {
        var warm = WarmChildren(wanted: 8)
        warm.noteStarted()
        #expect(warm.isAwaited && warm.refill() == 0)
        warm.noteForked(3, isLast: false)
        #expect(warm.ready == 3 && warm.isAwaited && warm.refill() == 0)
        warm.noteForked(5)
        #expect(warm.ready == 8 && !warm.isAwaited && warm.refill() == 0)
    }

    @Test("at half, for the rest, and once") func half() {
        var warm = ready(5, of: 8)
        #expect(warm.refill() == 0)
        warm.noteTaken()
        #expect(warm.refill() == 4)
        #expect(warm.isAwaited && warm.refill() == 0)
        warm.noteTaken()
        warm.noteForked(4)
        #expect(warm.ready == 7 && warm.refill() == 0)
    }

    @Test("however many are wanted, none is asked for twice", arguments: 0...5) func few(_ wanted: Int) {
        var warm = ready(0, of: wanted)
        #expect(warm.refill() == wanted)
        #expect(warm.refill() == 0)
        warm.noteForked(wanted)
        #expect(warm.refill() == 0)
    }

    @Test("again after a refill that failed, but only after a call") func failed() {
        var warm = ready(2, of: 8)
        #expect(warm.refill() == 6)
        warm.noteForked(0)
        #expect(warm.ready == 2 && warm.refill() == 6)
    }

    @Test("a lost zygote leaves none") func lost() {
        var warm = ready(6, of: 8)
        warm.noteLost()
        #expect(warm.ready == 0 && !warm.isAwaited)
        warm.noteStarted()
        #expect(warm.isAwaited)
    }
}
