// SPDX-License-Identifier: Apache-2.0
//
// What is fair:
// - All children are forked with the same steps in C (own group, die with the parent, signals restored), so that the
//   methods differ in what stands around fork, not in fork.
// - Only the method that is being measured has live children: the kernel walks the list of all children of a process in
//   some calls, and one method's would slow another's.
// - The idle children have come to rest before the clock starts, and the first cycles are not counted.
// - Each method waits for the end of a child as it would in a server: the table until its descriptor is readable, the
//   seed's by SIGCHLD. Waiting is in `cycle`, not in `reap`.
// - Everything a method does because of an end is in `reap`: the table's signalfd, its status, resource usage and call
//   of the observer, and its sweep, which comes once a second; the seed's waitpid of each child. The seed's gets the
//   cheapest bookkeeping there can be: a vector of pids, and no status, so its lead at 0 live children is real.
// - A measurement's number is its mean: what is dear but rare counts in full. Medians and spread are over repetitions.

import CForkCore
import Glibc

/// A way to fork and reap children. A new one goes into `ReapMethods.all`.
protocol ReapMethod: AnyObject, SendableMetatype {
    static var name: String { get }

    /// - Parameter limit: how many children there will be at once.
    init(limit: Int) throws
    func fork(_ body: () -> Int32) throws
    /// Returns when a child may have ended.
    func waitForEnd() throws
    /// Collects what has ended; returns how many that were.
    func reap() throws -> Int
    /// Waits for all children. Not measured.
    func waitForAll() throws
}

enum ReapMethods {
    static let all: [any ReapMethod.Type] = [TableMethod.self, SweepMethod.self]
}

/// Microseconds per child, the mean of a measurement.
struct ReapSample {
    var fork = 0.0
    var reap = 0.0
    /// From before the fork until after the reaping, the child's life included.
    var cycle = 0.0
}

enum ReapRun {
    private static let warmUp = 10

    static func measure(_ type: any ReapMethod.Type, _ live: Int, _ batch: Int) throws -> ReapSample {
        let method = try type.init(limit: live + 1)
        let idle = try IdleChildren(live, of: method)
        for _ in 0..<warmUp { _ = try cycle(method) }
        var sum = ReapSample()
        for _ in 0..<batch {
            let one = try cycle(method)
            sum.fork += one.fork
            sum.reap += one.reap
            sum.cycle += one.cycle
        }
        idle.release()
        try method.waitForAll()
        let count = Double(batch)
        return ReapSample(fork: sum.fork / count, reap: sum.reap / count, cycle: sum.cycle / count)
    }

    /// One child: forked, ended, reaped.
    private static func cycle(_ method: any ReapMethod) throws -> ReapSample {
        let start = nanoseconds()
        try method.fork { 0 }
        let forked = nanoseconds()
        var reaping = 0.0
        var end = forked
        var count = 0
        while count == 0 {  // the table also wakes for its sweep
            try method.waitForEnd()
            let begun = nanoseconds()
            count = try method.reap()
            end = nanoseconds()
            reaping += microseconds(from: begun, to: end)
        }
        guard count == 1 else { throw Shortage("an idle child has ended: somebody killed it") }
        return ReapSample(
            fork: microseconds(from: start, to: forked), reap: reaping, cycle: microseconds(from: start, to: end))
    }
}

/// Children that wait in read(2), at the end of a pipe, for the parent to close the other.
final class IdleChildren {
    private let gate: (read: Int32, write: Int32)
    private var isOpen = true

    init(_ count: Int, of method: any ReapMethod) throws {
        let gate = try makePipe(), ready = try makePipe()
        self.gate = gate
        defer {
            close(ready.read)
            close(ready.write)
        }
        for number in 0..<count {
            do {
                try method.fork {
                    close(gate.write)
                    close(ready.read)
                    var byte: UInt8 = 0
                    write(ready.write, &byte, 1)
                    close(ready.write)
                    while read(gate.read, &byte, 1) < 0, errno == EINTR {}
                    return 0
                }
            } catch {
                release()
                try? method.waitForAll()
                throw Shortage(
                    "only \(number) of \(count) idle children could be made: \(error); \(Limits.description)")
            }
        }
        var bytes = [UInt8](repeating: 0, count: 4096)
        var left = count
        while left > 0 {
            let got = read(ready.read, &bytes, min(left, bytes.count))
            if got < 0, errno != EINTR { throw Shortage(call: "read") }
            left -= max(got, 0)
        }
        // All have said that they run; the last are on their way into read.
        if count > 0 { usleep(20_000 + UInt32(min(count, 10_000)) * 10) }
    }

    func release() {
        guard isOpen else { return }
        isOpen = false
        close(gate.read)
        close(gate.write)
    }

    deinit { release() }
}

private func makePipe() throws -> (read: Int32, write: Int32) {
    var ends: [Int32] = [-1, -1]
    guard pipe(&ends) == 0 else { throw Shortage(call: "pipe") }
    return (ends[0], ends[1])
}
