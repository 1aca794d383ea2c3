// SPDX-License-Identifier: Apache-2.0

import Testing

@Suite("A zygote as its host's threads see it")
struct ZygoteWatchTests {
    @Test("answers taken in any order count forward")
    func countsForward() throws { try pass("zygote-counts-forward") }

    @Test("a late answer of a lost zygote does not count for the next")
    func countsAnew() throws { try pass("zygote-counts-anew") }

    @Test("what a child makes up is not counted")
    func falseCounts() throws { try pass("zygote-false-counts") }

    @Test("a loss is one failure, whatever calls there were")
    func lossCountsOnce() throws { try pass("zygote-loss-counts-once") }

    @Test("a call that finds no zygote is told of as that")
    func notAdmitted() throws { try pass("zygote-not-admitted") }

    @Test("to look after a drained zygote starts none")
    func drainedStaysSo() throws { try pass("zygote-drained-stays-so") }

    @Test("a kill ends the wait for its end")
    func killedWhileAwaited() throws { try pass("zygote-killed-while-awaited") }

    @Test("its observer hears which calls have a place, and what was forked")
    func tellsOfCalls() throws { try pass("zygote-tells-of-calls") }
}
