// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("What an isolate decides")
struct IsolateQueueTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)

    private func queue(
        _ change: (inout IsolateQueue.Rules) -> Void = { _ in }, startBy: Instant? = nil
    ) -> IsolateQueue {
        var rules = IsolateQueue.Rules()
        change(&rules)
        return IsolateQueue(rules, startBy: startBy, random: Middle())
    }

    private func running(_ change: (inout IsolateQueue.Rules) -> Void = { _ in }) -> IsolateQueue {
        var queue = queue(change)
        queue.noteStarting()
        queue.noteStarted(at: start)
        return queue
    }

    /// Restarts it, `time` after the last start.
    private func restart(_ queue: inout IsolateQueue, at now: Instant) {
        _ = queue.order(at: now)
        #expect(queue.phase == .due)
        queue.noteStarting()
        queue.noteStarted(at: now)
    }

    @Test("calls wait until a child has started, and are given to it in order, one at a time") func order() {
        var queue = queue()
        queue.append(1)
        queue.append(2)
        #expect(queue.phase == .due && queue.next(at: start) == nil)
        queue.noteStarting()
        #expect(queue.next(at: start) == nil)
        queue.noteStarted(at: start)
        #expect(queue.next(at: start) == 1 && queue.next(at: start) == nil)
        #expect(queue.finish(1) && queue.next(at: start) == 2)
        #expect(queue.finish(1) == false, "it was finished before")
    }

    @Test("several at a time, if its handler can serve them") func window() {
        var queue = running { $0.window = 2 }
        for id in 1...3 as ClosedRange<UInt64> { queue.append(id) }
        #expect(queue.next(at: start) == 1 && queue.next(at: start) == 2 && queue.next(at: start) == nil)
        #expect(queue.finish(2) && queue.next(at: start) == 3)
    }

    @Test("a call is the only one as long as nobody waits for another") func onlyCall() {
        var queue = running { $0.window = 3 }
        queue.append(1, isStanding: true)
        queue.append(2)
        #expect(!queue.isOnlyCall(2), "it is not in flight")
        #expect(queue.next(at: start) == 1 && queue.next(at: start) == 2 && queue.isOnlyCall(2))
        queue.append(3)
        #expect(!queue.isOnlyCall(2), "another waits")
        #expect(queue.next(at: start) == 3 && !queue.isOnlyCall(2) && !queue.isOnlyCall(3))
        #expect(queue.finish(2) && queue.isOnlyCall(3))
    }

    @Test("a standing call holds up neither the end nor a replacement") func standing() {
        var queue = running { $0.window = 3 }
        queue.append(1, isStanding: true)
        queue.append(2)
        #expect(queue.next(at: start) == 1)
        #expect(queue.next(at: start) == 2)
        queue.close()
        #expect(queue.order(at: start) == nil, "a call is in flight")
        #expect(queue.finish(2) == true)
        #expect(queue.order(at: start) == .close)
        var recycled = running {
            $0.window = 3
            $0.maxAge = .seconds(1)
        }
        recycled.append(1, isStanding: true)
        #expect(recycled.next(at: start) == 1)
        #expect(recycled.due == start + .seconds(1))
        #expect(recycled.order(at: start + .seconds(1)) == .close)
    }

    @Test("a call for which there is no room in the socket is the next again, a moment later") func requeue() {
        var queue = running { $0.window = 3 }
        queue.append(1)
        queue.append(2)
        #expect(queue.next(at: start) == 1)
        queue.requeue(1, until: start + .milliseconds(1))
        #expect(queue.next(at: start) == nil && queue.due == start + .milliseconds(1) && queue.calls == 0)
        #expect(queue.next(at: start + .milliseconds(1)) == 1 && queue.next(at: start + .milliseconds(1)) == 2)
    }

    @Test("only so many wait") func room() {
        var queue = running { $0.maxWaiting = 1 }
        for id in 1...2 as ClosedRange<UInt64> {
            #expect(queue.hasRoom)
            queue.append(id)
        }
        #expect(!queue.hasRoom)
        _ = queue.next(at: start)
        #expect(!queue.hasRoom && queue.finish(1) == true && queue.hasRoom)
    }

    // MARK: Withdrawal

    @Test("a call that waits leaves the queue, and costs nothing else") func withdrawWaiting() {
        var queue = running()
        queue.append(1)
        queue.append(2)
        _ = queue.next(at: start)
        #expect(queue.withdraw(2, at: start) == .waited && queue.waiting == [] && queue.order(at: start) == nil)
        #expect(queue.withdraw(2, at: start) == .none)
    }

    @Test("a call in flight costs the child, but not those that wait") func withdrawInFlight() {
        var queue = running { $0.restart = .always }
        queue.append(1)
        queue.append(2)
        _ = queue.next(at: start)
        #expect(queue.withdraw(1, at: start) == .inFlight)
        #expect(queue.order(at: start) == .kill && queue.order(at: start) == nil)
        #expect(queue.next(at: start) == nil && queue.isKilled)
        #expect(queue.noteEnded(.byItself, at: start) == .zero)
        restart(&queue, at: start)
        #expect(queue.next(at: start) == 2)
    }

    @Test("a child that can take a call back has a moment to do so") func withdrawCooperative() {
        var queue = running {
            $0.window = 2
            $0.isCooperative = true
        }
        queue.append(1)
        queue.append(2)
        _ = (queue.next(at: start), queue.next(at: start))
        #expect(queue.withdraw(1, at: start) == .inFlight && queue.withdraw(2, at: start) == .inFlight)
        let late = start + IsolateQueue.grace
        #expect(queue.order(at: start) == nil && queue.due == late && queue.isLate(1))
        #expect(queue.finish(1) && !queue.isLate(1))
        #expect(queue.order(at: late) == .kill)
    }

    @Test("a killed child whose end is not reported: its zygote is replaced") func stuck() {
        var queue = running()
        queue.release()
        #expect(queue.order(at: start) == .kill)
        let end = start + IsolateQueue.confirmation
        #expect(queue.order(at: start + .milliseconds(4999)) == nil && queue.due == end)
        #expect(queue.order(at: end) == .replaceZygote && queue.order(at: end) == nil)
    }

    // MARK: Recycling

    @Test("after so many calls it is recycled, when the last has ended") func maxCalls() {
        var queue = running { $0.maxCalls = 2 }
        for id in 1...3 as ClosedRange<UInt64> { queue.append(id) }
        for id in 1...2 as ClosedRange<UInt64> {
            #expect(queue.order(at: start) == nil && queue.next(at: start) == id && queue.order(at: start) == nil)
            #expect(queue.finish(id) == true)
        }
        #expect(queue.order(at: start) == .close && queue.next(at: start) == nil)
        #expect(queue.noteEnded(.byItself, at: start) == .zero, "although nothing else is restarted")
        restart(&queue, at: start)
        #expect(queue.next(at: start) == 3 && queue.calls == 1 && queue.starts == 2)
    }

    @Test("at an age it is recycled, once it is idle") func maxAge() {
        var queue = running { $0.maxAge = .seconds(10) }
        let old = start + .seconds(10)
        #expect(queue.due == old)
        queue.append(1)
        _ = queue.next(at: start)
        #expect(queue.due == nil && queue.order(at: old) == nil)
        _ = queue.finish(1)
        #expect(queue.order(at: old) == .close)
        #expect(queue.order(at: old + IsolateQueue.grace) == .kill, "it does not end")
        #expect(queue.noteEnded(.byItself, at: old) == .zero)
    }

    // MARK: Restarts

    @Test("never") func never() {
        var queue = running()
        #expect(queue.noteEnded(.byItself, at: start) == nil && queue.isOver)
        queue = running()
        #expect(queue.noteEnded(.withZygote, at: start) == nil && queue.isOver)
    }

    @Test("always: at once, after two early ends in a row at growing intervals, and at once after a long life")
    func always() {
        var queue = running { $0.restart = .always }
        var now = start
        var pauses: [Duration] = []
        for life in [5, 0, 0, 0, 5, 0] {
            now = now + .seconds(life)
            let pause = queue.noteEnded(.byItself, at: now)!
            pauses.append(pause)
            now = now + pause
            restart(&queue, at: now)
        }
        #expect(pauses == [0, 0, 100, 200, 0, 0].map { .milliseconds($0) })
    }

    @Test("a child that cannot start is started at growing intervals") func failedStart() {
        var queue = running { $0.restart = .always }
        #expect(queue.noteEnded(.byItself, at: start + .seconds(2)) == .zero)
        queue.noteStarting()
        #expect(queue.noteEnded(.failedStart, at: start + .seconds(2)) == .milliseconds(100))
        #expect(queue.due == start + .milliseconds(2100))
    }

    @Test("at most so many in a time") func atMost() {
        var queue = running { $0.restart = .atMost(2, within: .seconds(60)) }
        var now = start
        for second in [10, 20, 71] {
            now = start + .seconds(second)
            #expect(queue.noteEnded(.byItself, at: now) == .zero)
            restart(&queue, at: now)
        }
        #expect(queue.noteEnded(.byItself, at: start + .seconds(75)) == nil && queue.isOver)
    }

    @Test("a lost zygote does not count, nor does a shortage; its pause applies") func zygoteLost() {
        var queue = running { $0.restart = .atMost(1, within: .seconds(60)) }
        for _ in 0..<3 {
            #expect(queue.noteEnded(.withZygote, at: start) == .zero)
            queue.noteStarting()
            #expect(queue.noteEnded(.shortage(pause: .seconds(3)), at: start) == .seconds(3))
            restart(&queue, at: start + .seconds(3))
        }
        #expect(queue.noteEnded(.byItself, at: start + .seconds(9)) == .zero)
    }

    @Test("the first start is not repeated, whatever the policy") func firstStart() {
        for end in [IsolateQueue.End.failedStart, .shortage(pause: nil), .withZygote, .byItself] {
            var queue = queue { $0.restart = .always }
            queue.noteStarting()
            #expect(queue.noteEnded(end, at: start) == nil && queue.isOver)
        }
    }

    @Test("a start that takes too long is given up") func startBy() {
        var queue = queue(startBy: start + .seconds(1))
        queue.noteStarting()
        #expect(queue.due == start + .seconds(1) && queue.order(at: start) == nil)
        #expect(queue.order(at: start + .seconds(1)) == .kill)
        #expect(queue.noteEnded(.byItself, at: start + .seconds(1)) == nil)
    }

    // MARK: The end

    @Test("closed, it serves those that were begun, and then tells the child") func close() {
        var queue = running { $0.restart = .always }
        queue.append(1)
        queue.append(2)
        _ = queue.next(at: start)
        queue.close()
        #expect(queue.isClosing && queue.order(at: start) == nil)
        _ = queue.finish(1)
        #expect(queue.order(at: start) == nil && queue.next(at: start) == 2)
        _ = queue.finish(2)
        #expect(queue.order(at: start) == .close)
        #expect(queue.noteEnded(.byItself, at: start) == nil && queue.isOver)
    }

    @Test("closed, those that wait are served by the next child if the present one crashes") func closeCrash() {
        var queue = running { $0.restart = .always }
        queue.append(1)
        queue.append(2)
        _ = queue.next(at: start)
        queue.close()
        #expect(queue.noteEnded(.byItself, at: start) == .zero)
        restart(&queue, at: start)
        #expect(queue.next(at: start) == 2)
    }

    @Test("closed, it is killed at the time limit") func closeBy() {
        var queue = running { $0.restart = .always }
        queue.append(1)
        _ = queue.next(at: start)
        queue.close(by: start + .seconds(1))
        #expect(queue.due == start + .seconds(1))
        #expect(queue.order(at: start + .seconds(1)) == .kill)
        #expect(queue.noteEnded(.byItself, at: start + .seconds(1)) == nil)
    }

    @Test("closed or released during a pause, it is over at once") func closePausing() {
        for isReleased in [false, true] {
            var queue = running { $0.restart = .always }
            for _ in 0..<2 {
                _ = queue.noteEnded(.byItself, at: start)
                if queue.phase == .due { restart(&queue, at: start) }
            }
            if isReleased { queue.release() } else { queue.close() }
            #expect(queue.order(at: start) == nil && queue.isOver)
        }
    }

    @Test("given up: those that wait are returned") func giveUp() {
        var queue = running { $0.restart = .always }
        queue.append(1)
        _ = queue.noteEnded(.byItself, at: start)
        queue.giveUp()
        #expect(queue.isOver && queue.takeWaiting() == [1] && queue.waiting == [])
    }
}

/// Draws what lies in the middle: no jitter.
private struct Middle: RandomNumberGenerator {
    mutating func next() -> UInt64 { .max / 2 + 1 }
}
