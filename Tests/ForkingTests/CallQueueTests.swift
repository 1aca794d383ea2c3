// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

private struct Call: Identifiable, Equatable {
    let id: Int
}

@Suite("Call queue") struct CallQueueTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)

    private func queue(running: Int = 2, waiting: Int = 2) -> CallQueue<Call> {
        var queue = CallQueue<Call>(maxRunning: running, maxWaiting: waiting)
        queue.noteStarted(at: start)
        queue.noteReady()
        return queue
    }

    /// Starts whatever may run now, and returns their numbers.
    private func run(_ queue: inout CallQueue<Call>) -> [Int] {
        var started: [Int] = []
        while let next = queue.next {
            queue.startNext(at: start)
            started.append(next.id)
        }
        return started
    }

    @Test("calls run in order, as many at a time as there may be; so many wait, and no more") func order() {
        var queue = queue()
        for id in 1...4 {
            #expect(queue.hasRoom)
            queue.append(Call(id: id))
            if id <= 2 { #expect(run(&queue) == [id]) }
        }
        #expect(queue.next == nil && !queue.hasRoom)
        #expect(queue.runningCount == 2 && queue.waiting.map(\.id) == [3, 4])
        let slot = queue.finish(2)
        #expect(slot == .init(generation: 0, since: start))
        #expect(run(&queue) == [3] && queue.hasRoom)
    }

    @Test("a call that still waits can be taken back, one that runs cannot") func withdrawn() {
        var queue = queue(running: 1)
        for id in 1...3 { queue.append(Call(id: id)) }
        #expect(run(&queue) == [1])
        let withdrawn = [queue.withdraw(1), queue.withdraw(2), queue.withdraw(2)]
        #expect(withdrawn == [false, true, false])
        #expect(queue.isRunning(1) && queue.waiting.map(\.id) == [3])
        let slot = queue.finish(3)
        #expect(slot == nil, "it never ran")
        #expect(queue.waiting.isEmpty)
    }

    @Test("a call that was given to a child which had ended is the next one again") func requeued() {
        var queue = queue(running: 2)
        for id in 1...4 { queue.append(Call(id: id)) }
        #expect(run(&queue) == [1, 2])
        queue.requeue(Call(id: 2))
        #expect(queue.waiting.map(\.id) == [2, 3, 4] && queue.runningCount == 1 && !queue.isRunning(2))
        #expect(run(&queue) == [2])
        _ = queue.finish(1)
        queue.requeue(Call(id: 1))
        #expect(queue.waiting.map(\.id) == [3, 4], "it has ended")
        let loss = queue.noteLost(at: start)
        #expect(loss != nil)
        queue.requeue(Call(id: 2))
        #expect(queue.waiting.map(\.id) == [2, 3, 4], "lost with its zygote, before its child had it")
    }

    @Test("the calls of a zygote that was lost make room at once, and still tell where they ran") func lost() {
        var queue = queue(running: 1)
        for id in 1...2 { queue.append(Call(id: id)) }
        #expect(run(&queue) == [1])
        let loss = queue.noteLost(at: start + .seconds(60))
        #expect(loss == .init(failures: 0, pause: .zero), "one that was ready has earned a successor at once")
        #expect(queue.zygote == .none && !queue.isRunning(1) && queue.runningCount == 0)
        queue.noteStarted(at: start + .seconds(60))
        #expect(queue.generation == 1 && run(&queue) == [2])
        let places = [queue.finish(1), queue.finish(2)]
        #expect(places.map { $0?.generation } == [0, 1])
    }

    @Test("zygotes that end early, one after the other, are started again later and later") func endsEarly() {
        var queue = queue()
        var now = start
        #expect(queue.noteLost(at: now) == .init(failures: 0, pause: .zero), "the first is forgiven")
        for failures in 1...3 {
            queue.noteStarted(at: now)
            queue.noteReady()
            guard let loss = queue.noteLost(at: now + .milliseconds(10)) else { return #expect(Bool(false), "no loss") }
            #expect(loss.failures == failures && loss.pause > .milliseconds(79 << (failures - 1)), "\(loss)")
            now = now + .milliseconds(10) + loss.pause
            #expect(queue.pause(at: now) == nil)
        }
    }

    @Test("calls wait while a zygote begins, no more than there may be at all; and it may come to nothing")
    func beginning() {
        var queue = queue(running: 2, waiting: 1)
        #expect(queue.noteLost(at: start + .seconds(60)) != nil)
        queue.noteBeginning()
        for id in 1...3 {
            #expect(queue.hasRoom)
            queue.append(Call(id: id))
        }
        #expect(!queue.hasRoom && queue.next == nil && queue.runningCount == 0)
        #expect(queue.noteLost(at: start + .seconds(60)) == nil, "there is none yet")
        queue.noteStartFailed(at: start + .seconds(60))
        #expect(queue.zygote == .none && queue.pause(at: start + .seconds(60)) != nil)
        queue.noteBeginning()
        queue.noteStarted(at: start + .seconds(61))
        #expect(run(&queue) == [1, 2] && queue.waiting.map(\.id) == [3])
    }

    @Test("it is not over while a zygote begins") func drainedAsOneBegins() {
        var queue = CallQueue<Call>(maxRunning: 1, maxWaiting: 1)
        queue.noteBeginning()
        let drains = queue.drain()
        queue.noteAllReaped()
        #expect(drains && queue.phase == .draining)
        queue.noteStartFailed(at: start)
        queue.noteAllReaped()
        #expect(queue.phase == .over)
    }

    @Test("one that was never ready is a failure, and so is one that could not be started") func neverReady() {
        var queue = CallQueue<Call>(maxRunning: 1, maxWaiting: 1)
        queue.noteStartFailed(at: start)
        #expect(queue.pause(at: start) != nil)
        let later = start + .seconds(60)
        #expect(queue.pause(at: later) == nil)
        queue.noteStarted(at: later)
        #expect(queue.zygote == .starting(since: later))
        #expect(queue.noteLost(at: later + .seconds(60))?.failures == 2)
        #expect(queue.noteLost(at: later + .seconds(60)) == nil, "there is none")
    }

    @Test("a drain lets those who wait run first; then nothing else comes, and it is over when all are reaped")
    func drained() {
        var queue = queue(running: 1)
        for id in 1...2 { queue.append(Call(id: id)) }
        #expect(run(&queue) == [1])
        let drains = [queue.drain(), queue.drain()]
        #expect(drains == [true, false] && queue.phase == .draining && !queue.isLastOrderDue)
        #expect(queue.finish(1) != nil)
        #expect(run(&queue) == [2] && queue.isLastOrderDue)
        queue.noteAllReaped()
        #expect(queue.phase == .draining, "there is a zygote still")
        #expect(queue.noteLost(at: start + .seconds(1)) == nil, "no other follows")
        queue.noteAllReaped()
        #expect(queue.phase == .over && !queue.wasKilled)
        queue.kill()
        #expect(queue.phase == .over && !queue.wasKilled, "there was nothing to kill")
    }

    @Test("those who wait for a zygote that does not come are given up; who is killed says so") func killed() {
        var queue = queue(running: 1)
        for id in 1...3 { queue.append(Call(id: id)) }
        #expect(run(&queue) == [1])
        queue.kill()
        #expect(queue.phase == .draining && queue.wasKilled)
        #expect(queue.noteLost(at: start) == nil)
        #expect(queue.giveUp().map(\.id) == [2, 3])
        #expect(queue.waiting.isEmpty && queue.isLastOrderDue)
    }
}
