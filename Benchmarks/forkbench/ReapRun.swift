// SPDX-License-Identifier: Apache-2.0
//
// What is fair:
// - Only the method that is being measured has live children: the kernel walks the list of all children of a process in
//   some calls, and one method's would slow another's.
// - The machine is at rest while it is measured, the idle children above all (see `Rest`). These are made once for all
//   batches, whose order alternates too.
// - All methods but the table fork in the barest way there is, fork(2) and _exit(2) in C. What the table does besides
//   (a group, the signals, stdio, death with the parent) is in its `fork`.
// - Each method waits for ends in the way that costs it least: the table until its descriptor is readable, sweep and
//   waitpid-any by sigwaitinfo(2), pidfd in epoll_wait(2), which names the ended ones already. Waiting is in `cycle`,
//   not in `reap`.
// - Everything a method does because of an end is in `reap`: the table's signals, status, resource usage, call of the
//   observer, and its sweep, which comes once a second; the others' bare calls. These keep no status, and no more of
//   their children than a pid, so their lead at 0 live children is real.
// - A measurement's number is the median of its cycles. Where thousands of processes share pages, the kernel's own work
//   on memory (kdamond, kswapd, compaction) holds single forks up for 100 ms and more, whatever the method: in a mean
//   that would be the luck of the draw. What is dear but rare is not in a median, such as the table's sweep; `bothMean`
//   has that in full, and the stalls with it. Medians and spread of these numbers are over repetitions.

/// Microseconds per child.
struct ReapSample {
    var fork = 0.0
    var reap = 0.0
    var both = 0.0
    /// From before the fork until after the reaping, the child's life included.
    var cycle = 0.0
    var bothMean = 0.0
    /// Whether the machine was fit to be measured.
    let isAtRest: Bool

    /// Of cycles with so many children each.
    init(_ cycles: [ReapCycle], batch: Int, isAtRest: Bool) {
        self.isAtRest = isAtRest
        func median(_ time: (ReapCycle) -> Double) -> Double { Spread(cycles.map { time($0) / Double(batch) }).median }
        fork = median(\.fork)
        reap = median(\.reap)
        both = median { $0.fork + $0.reap }
        cycle = median(\.cycle)
        bothMean = cycles.map { $0.fork + $0.reap }.reduce(0, +) / Double(cycles.count * batch)
    }
}

/// One batch, forked and reaped: microseconds for all its children together.
struct ReapCycle {
    let fork: Double
    let reap: Double
    let cycle: Double
}

/// A method with its idle children.
final class ReapRun {
    private let method: any ReapMethod
    private let idle: IdleChildren
    private let live: Int

    init(_ type: any ReapMethod.Type, live: Int, largestBatch: Int) throws {
        let method = try type.init(limit: live + largestBatch)
        self.method = method
        self.live = live
        idle = try IdleChildren(live, of: method)
    }

    /// Measures in short chunks, and keeps those that began and ended at rest; but after some seconds of waiting for
    /// that, whatever comes, and says so.
    func measure(batch: Int, cycles: Int) throws -> ReapSample {
        var kept: [ReapCycle] = []
        // In nanoseconds. The more children, the longer the storms.
        var patience = Int64(500_000_000 + live * 150_000)
        var rest: Rest?
        while kept.count < cycles {
            let begun = nanoseconds()
            if rest == nil, patience > 0 {
                rest = try Rest(before: begun + patience) { _ = try cycle(1) }
                _ = try cycle(batch)  // the first of its size grows arrays
                patience -= nanoseconds() - begun
            }
            let start = nanoseconds()
            let chunk = try someCycles(batch, atMost: cycles - kept.count)
            if let now = rest, try !now.lasts({ _ = try cycle(1) }) {
                rest = nil
                patience -= nanoseconds() - start
            } else {
                kept += chunk
            }
        }
        return ReapSample(kept, batch: batch, isAtRest: rest != nil)
    }

    private func someCycles(_ batch: Int, atMost most: Int) throws -> [ReapCycle] {
        let begun = nanoseconds()
        var cycles: [ReapCycle] = []
        repeat { try cycles.append(cycle(batch)) } while cycles.count < most && seconds(since: begun) < 0.05
        return cycles
    }

    func end() throws {
        idle.release()
        try method.waitForAll()
    }

    /// All are forked, each ends at once, all are reaped.
    private func cycle(_ batch: Int) throws -> ReapCycle {
        let start = nanoseconds()
        for _ in 0..<batch { try method.fork() }
        let forked = nanoseconds()
        var reaping = 0.0
        var end = forked
        var left = batch
        while left > 0 {  // an end may come after its siblings were reaped; and the table also wakes for its sweep
            try method.waitForEnd()
            let begun = nanoseconds()
            left -= try method.reap()
            end = nanoseconds()
            reaping += microseconds(from: begun, to: end)
        }
        guard left == 0 else { throw Shortage("an idle child has ended: somebody killed it") }
        return ReapCycle(
            fork: microseconds(from: start, to: forked), reap: reaping, cycle: microseconds(from: start, to: end))
    }
}
