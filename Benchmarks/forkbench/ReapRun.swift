// SPDX-License-Identifier: Apache-2.0
//
// What is fair:
// - Only the method that is being measured has live children: the kernel walks the list of all children of a process in
//   some calls, and one method's would slow another's.
// - The idle children have come to rest before the clock starts (see `Rest`). They are made once for all batches.
// - All methods but the table fork in the barest way there is, fork(2) and _exit(2) in C. What the table does besides
//   (a group, the signals, stdio, death with the parent) is in its `fork`.
// - Each method waits for ends in the way that costs it least: the table until its descriptor is readable, sweep and
//   waitpid-any by sigwaitinfo(2), pidfd in epoll_wait(2), which names the ended ones already. Waiting is in `cycle`, not
//   in `reap`.
// - Everything a method does because of an end is in `reap`: the table's signals, status, resource usage, call of the
//   observer, and its sweep, which comes once a second; the others' bare calls. These keep no status, and no more of
//   their children than a pid, so their lead at 0 live children is real.
// - A measurement's number is its mean: what is dear but rare counts in full. Medians and spread are over repetitions.

/// Microseconds per child, the mean of a measurement.
struct ReapSample {
    var fork = 0.0
    var reap = 0.0
    /// From before the fork until after the reaping, the child's life included.
    var cycle = 0.0
}

/// A method with its idle children, at rest.
final class ReapRun {
    private let method: any ReapMethod
    private let idle: IdleChildren
    /// Whether the machine came to rest in time.
    let isAtRest: Bool

    init(_ type: any ReapMethod.Type, live: Int, largestBatch: Int) throws {
        let method = try type.init(limit: live + largestBatch)
        self.method = method
        idle = try IdleChildren(live, of: method)
        // The more there are, the longer it takes.
        isAtRest = try Rest.reach(group: 0.005 + Double(live) * 5e-6, limit: 0.5 + Double(live) * 2e-4) {
            _ = try ReapRun.cycle(method, batch: 1)
        }
    }

    /// The mean of so many `cycles`.
    func measure(batch: Int, cycles: Int) throws -> ReapSample {
        _ = try Self.cycle(method, batch: batch)  // the first of its size grows arrays
        var sum = ReapSample()
        for _ in 0..<cycles {
            let one = try Self.cycle(method, batch: batch)
            sum.fork += one.fork
            sum.reap += one.reap
            sum.cycle += one.cycle
        }
        let count = Double(batch * cycles)
        return ReapSample(fork: sum.fork / count, reap: sum.reap / count, cycle: sum.cycle / count)
    }

    func end() throws {
        idle.release()
        try method.waitForAll()
    }

    /// `batch` children: all are forked, each ends at once, all are reaped. Microseconds for all of them together.
    private static func cycle(_ method: any ReapMethod, batch: Int) throws -> ReapSample {
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
        return ReapSample(
            fork: microseconds(from: start, to: forked), reap: reaping, cycle: microseconds(from: start, to: end))
    }
}
