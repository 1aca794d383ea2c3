// SPDX-License-Identifier: Apache-2.0
//
// Parent and worker.

import CForkCore
import Synchronization

/// A page that parent and worker have in common: the worker's line of the scoreboard, and the word by which it is asked to
/// drain. No other worker has it, and a new worker gets a new one.
///
/// The parent trusts nothing in it: see `WorkerSnapshot`.
final class Seat: @unchecked Sendable {
    private static let size = 4096
    private static let linesOffset = 64, startsOffset = 1024
    /// The requests that a worker can have at the same time with a start that is known; others are counted, but not timed.
    private static let timedRequests = 256

    private let memory: UnsafeMutableRawPointer
    private let owner = forkcore_process()

    /// What a worker says of itself.
    struct Lines: ~Copyable {
        let isReady = Atomic(false)
        /// It asks for another in its place.
        let wantsToRetire = Atomic(false)
        let active = Atomic<Int32>(0)
        /// It serves one connection at a time, and has one, be there a request on it or not.
        let hasConnection = Atomic(false)
        /// It takes its clients from an `AcceptQueue`.
        let takesFromQueue = Atomic(false)
        let requests = Atomic<UInt64>(0)
        /// When a request began or ended last: nanoseconds of CLOCK_MONOTONIC.
        let since = Atomic<Int64>(0)
        let beat = Atomic<Int64>(0)
        /// Written and read without a lock: what was torn is no address, or a wrong one.
        var peer = SocketAddress { (_, _) in }
    }

    init() throws(ForkingError) {
        var opened: UnsafeMutableRawPointer?
        try check(forkcore_shared_open(Self.size, &opened), "mmap")
        memory = opened!
        (memory + Self.linesOffset).bindMemory(to: Lines.self, capacity: 1).initialize(to: Lines())
        memory.bindMemory(to: Atomic<UInt32>.self, capacity: 1).initialize(to: Atomic(0))
        let starts = (memory + Self.startsOffset).bindMemory(to: Atomic<Int64>.self, capacity: Self.timedRequests)
        for index in 0..<Self.timedRequests { (starts + index).initialize(to: Atomic(0)) }
    }

    /// Parent, after the fork.
    func withhold() { _ = forkcore_shared_withhold(memory, Self.size) }

    deinit {
        if owner == forkcore_process() { forkcore_shared_close(memory, Self.size) }
    }

    var lines: UnsafeMutablePointer<Lines> {
        (memory + Self.linesOffset).assumingMemoryBound(to: Lines.self)
    }

    /// Where the signal handler sets it.
    var drainWord: UnsafeMutablePointer<UInt32> { memory.assumingMemoryBound(to: UInt32.self) }

    var isDraining: Bool { drain.pointee.load(ordering: .relaxed) != 0 }

    /// Parent: asks it to drain, or with `atOnce` has its next SIGTERM end it, whether it has had one or not. Worker: notes
    /// that nobody is there any more to ask.
    ///
    /// - Returns: what it was asked before; 0: nothing.
    @discardableResult
    func askToDrain(atOnce: Bool = false) -> UInt32 {
        let word = atOnce ? FORKCORE_DRAIN_ASKED | FORKCORE_DRAIN_SIGNALLED : FORKCORE_DRAIN_ASKED
        return drain.pointee.bitwiseOr(UInt32(word), ordering: .relaxed).oldValue
    }

    /// Parent, before it asks it to drain: to take of the last clients then.
    func offerLastClients() { _ = drain.pointee.bitwiseOr(UInt32(FORKCORE_DRAIN_LAST), ordering: .relaxed) }

    var takesLastClients: Bool { drain.pointee.load(ordering: .relaxed) & UInt32(FORKCORE_DRAIN_LAST) != 0 }

    private var drain: UnsafeMutablePointer<Atomic<UInt32>> { memory.assumingMemoryBound(to: Atomic<UInt32>.self) }

    // MARK: Requests

    /// When each request that is being served has begun, in nanoseconds of CLOCK_MONOTONIC; 0 where there is none.
    private var starts: UnsafeMutablePointer<Atomic<Int64>> {
        (memory + Self.startsOffset).assumingMemoryBound(to: Atomic<Int64>.self)
    }

    /// Worker: notes a start, and returns its number; -1 if there are too many.
    func noteStart(_ now: Instant) -> Int {
        for index in 0..<Self.timedRequests where starts[index].load(ordering: .relaxed) == 0 {
            let (taken, _) = starts[index].compareExchange(expected: 0, desired: now.nanoseconds, ordering: .relaxed)
            if taken { return index }
        }
        return -1
    }

    /// Worker: forgets one, or with nil all.
    func forgetStart(_ number: Int?) {
        for index in number.map({ $0..<$0 + 1 }) ?? 0..<Self.timedRequests {
            guard (0..<Self.timedRequests).contains(index) else { continue }
            starts[index].store(0, ordering: .relaxed)
        }
    }

    private func oldestStart() -> Int64? {
        var oldest = Int64.max
        for index in 0..<Self.timedRequests {
            let start = starts[index].load(ordering: .relaxed)
            if start > 0, start < oldest { oldest = start }
        }
        return oldest == .max ? nil : oldest
    }

    // MARK: Reading

    /// Parent: what stands there now.
    func read(startedAt: Instant, now: Instant) -> WorkerSnapshot {
        let isBusy = lines.pointee.active.load(ordering: .relaxed) > 0
        return WorkerSnapshot(
            isReady: lines.pointee.isReady.load(ordering: .acquiring),
            wantsToRetire: lines.pointee.wantsToRetire.load(ordering: .relaxed),
            isDraining: isDraining,
            isBusy: isBusy,
            hasConnection: lines.pointee.hasConnection.load(ordering: .relaxed),
            requests: lines.pointee.requests.load(ordering: .relaxed),
            since: Self.within(startedAt, now, lines.pointee.since.load(ordering: .relaxed)),
            oldest: isBusy ? oldestStart().map { Self.within(startedAt, now, $0) } : nil,
            beat: Self.within(startedAt, now, lines.pointee.beat.load(ordering: .relaxed)),
            peer: lines.pointee.peer.checked)
    }

    private static func within(_ start: Instant, _ now: Instant, _ nanoseconds: Int64) -> Instant {
        min(max(start, Instant(nanoseconds: nanoseconds)), now)
    }
}
