// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("The pool's size")
struct PoolSizeTests {
    /// A pool that is as it wants to be at each look, all workers but `idle` busy.
    private struct Pool {
        var size: PoolSize
        var now = Instant(nanoseconds: 0)

        init(_ range: ClosedRange<Int>, ceiling: Int = 100) {
            size = PoolSize(minimum: range.lowerBound, maximum: range.upperBound, ceiling: ceiling)
        }

        mutating func look(idle: Int = 0, queued: Int = 0, live: Int? = nil, after pause: Duration = .zero) -> Int {
            now = now + pause
            return size.look(idle: idle, live: live ?? size.wanted, queued: queued, at: now)
        }
    }

    @Test("while clients wait it grows by 1, 2, 4 …")
    func growth() {
        var pool = Pool(4...100)
        #expect((0..<9).map { _ in pool.look(queued: 1) } == [5, 7, 11, 19, 35, 67, 99, 100, 100])
        var large = Pool(1...1000, ceiling: 1000)
        #expect((0..<8).map { _ in large.look(queued: 1) } == [2, 4, 8, 16, 32, 64, 96, 128])
    }

    @Test("when all are busy and nobody waits it grows a look later")
    func busy() {
        var pool = Pool(4...100)
        #expect(pool.look() == 4 && pool.look() == 5 && pool.look() == 7)
        #expect(pool.look(idle: 1) == 7 && pool.look() == 7 && pool.look(idle: 1) == 7 && pool.look() == 7)
        #expect(pool.look() == 8)  // the steps have begun anew
    }

    @Test("it waits for those that start, and asks for no more meanwhile")
    func starting() {
        var pool = Pool(4...100)
        #expect(pool.look(queued: 9) == 5)
        for _ in 0..<20 { #expect(pool.look(queued: 9, live: 4) == 5) }
        #expect(pool.look(queued: 9) == 7)
        #expect(pool.look(queued: 9, live: 9) == 11)  // more than wanted, as in a roll-over
    }

    @Test("an idle worker is enough")
    func idle() {
        var pool = Pool(4...100)
        for _ in 0..<100 { #expect(pool.look(idle: 1, queued: 50, after: .seconds(1)) == 4) }
    }

    @Test("it shrinks one by one, ten seconds apart")
    func shrinking() {
        var pool = Pool(2...100)
        for _ in 0..<4 { _ = pool.look(queued: 1) }
        #expect(pool.size.wanted == 17)
        for _ in 0..<10 { #expect(pool.look(idle: 17, after: .seconds(1)) == 17) }
        #expect(pool.look(idle: 17, after: .seconds(1)) == 16)
        for _ in 0..<9 { #expect(pool.look(idle: 16, after: .seconds(1)) == 16) }
        #expect(pool.look(idle: 16, after: .seconds(1)) == 15)
        for _ in 0..<1000 { _ = pool.look(idle: pool.size.wanted, after: .seconds(1)) }
        #expect(pool.size.wanted == 2)
    }

    @Test("a moment with too few idle ones begins the ten seconds anew")
    func interrupted() {
        var pool = Pool(2...100)
        for _ in 0..<4 { _ = pool.look(queued: 1) }
        for _ in 0..<20 {  // 17 / 4 may be idle
            for _ in 0..<10 { #expect(pool.look(idle: 5, after: .seconds(1)) == 17) }
            #expect(pool.look(idle: 4, after: .seconds(1)) == 17)
        }
        _ = pool.look(idle: 5)
        #expect(pool.look(idle: 5, after: .seconds(10)) == 16)
    }

    @Test("one idle worker of a few is never too many")
    func few() {
        var pool = Pool(1...100)
        #expect(pool.look(queued: 1) == 2)
        for _ in 0..<100 { #expect(pool.look(idle: 1, after: .seconds(1)) == 2) }
    }

    @Test("a fixed pool never changes, and need not be looked at")
    func fixed() {
        var pool = Pool(4...4)
        for queued in [0, 1, 1000] {
            for idle in 0...4 {
                for _ in 0..<20 { #expect(pool.look(idle: idle, queued: queued, after: .seconds(5)) == 4) }
            }
        }
        #expect(pool.size.isFixed && pool.size.nextLook == nil)
    }

    @Test("it is looked at often while no worker is idle")
    func looks() {
        var pool = Pool(1...4)
        #expect(pool.size.nextLook == nil)
        _ = pool.look()
        #expect(pool.size.nextLook! - pool.now == PoolSize.shortPause)
        _ = pool.look(idle: 1)
        #expect(pool.size.nextLook! - pool.now == PoolSize.longPause)
    }

    @Test("workers are added and taken within the ceiling, fixed pools staying fixed")
    func byHand() {
        var fixed = PoolSize(minimum: 2, maximum: 2, ceiling: 4)
        let shift = [1, 1, 1, 1, -1, -1, -1, -1, -1].map { by in
            if by > 0 { fixed.add() } else { fixed.remove() }
            #expect(fixed.isFixed && fixed.minimum == fixed.wanted)
            return fixed.wanted
        }
        #expect(shift == [3, 4, 4, 4, 3, 2, 1, 1, 1])

        var pool = PoolSize(minimum: 1, maximum: 3, ceiling: 4)
        func state() -> [Int] { [pool.minimum, pool.wanted, pool.maximum] }
        pool.remove()
        #expect(state() == [1, 1, 2])
        for _ in 0..<2 { pool.add() }
        #expect(state() == [2, 3, 4])
        pool.add()
        #expect(state() == [3, 4, 4])
        for _ in 0..<9 { pool.remove() }
        #expect(state() == [1, 1, 1])
        for _ in 0..<2 { pool.add() }
        #expect(state() == [1, 3, 3])  // and it can shrink again by itself
    }

    @Test("after one was taken by hand, the next goes ten seconds later")
    func byHandAndBySelf() {
        var pool = Pool(1...10)
        for _ in 0..<3 { _ = pool.look(queued: 1) }
        #expect(pool.size.wanted == 8)
        _ = pool.look(idle: 8)
        _ = pool.look(idle: 8, after: .seconds(9))
        pool.size.remove()
        #expect(pool.look(idle: 7, after: .seconds(9)) == 7 && pool.look(idle: 7, after: .seconds(10)) == 6)
    }

    /// Clients that each keep a worker busy come and go; a worker starts in half a second, and one that is idle ends at
    /// once.
    @Test("it follows the load, up within three seconds, down within minutes")
    func load() {
        var size = PoolSize(minimum: 2, maximum: 40, ceiling: 40)
        var (now, live, starts) = (Instant(nanoseconds: 0), 2, [Instant]())
        /// Serves `clients` for so long; returns how long some of them waited, and how often the pool changed.
        func serve(_ clients: Int, for time: Duration) -> (waited: Duration, changes: Int) {
            let (begin, end) = (now, now + time)
            var (waited, changes) = (Duration.zero, 0)
            while now < end {
                live += starts.count { $0 <= now }
                starts.removeAll { $0 <= now }
                let before = size.wanted, busy = min(clients, live)
                _ = size.look(idle: live - busy, live: live, queued: clients - busy, at: now)
                #expect((2...40).contains(size.wanted))
                if size.wanted != before { changes += 1 }
                for _ in 0..<max(0, size.wanted - live - starts.count) { starts.append(now + .milliseconds(500)) }
                live = min(live, max(size.wanted, busy))
                if clients > busy { waited = now - begin }
                now = size.nextLook!
            }
            return (waited, changes)
        }
        #expect(serve(0, for: .seconds(60)).changes == 0)
        #expect(serve(1, for: .seconds(60)).changes == 0)
        let rise = serve(20, for: .seconds(60))  // 2 + 1 + 2 + 4 + 8 + 16: five starts
        #expect(rise.waited > .seconds(1) && rise.waited <= .seconds(3) && (20...40).contains(live), "\(rise) \(live)")
        let steady = serve(20, for: .seconds(600))
        #expect(steady.waited == .zero && (21...27).contains(live), "\(steady) \(live)")
        #expect(serve(20, for: .seconds(600)).changes == 0)
        #expect(serve(30, for: .seconds(30)).waited <= .seconds(3))
        let flood = serve(100, for: .seconds(60))  // more than there can be workers for
        #expect(live == 40 && flood.changes <= 3)
        let fall = serve(3, for: .seconds(600))
        #expect(fall.waited == .zero && (4...6).contains(live), "\(fall) \(live)")
        #expect(serve(0, for: .seconds(60)).waited == .zero && live == 2)
    }
}
