// SPDX-License-Identifier: Apache-2.0
//
// Parent and worker.

import CForkCore
import Synchronization

/// A page that parent and worker have in common: the worker's line of the scoreboard, and the word by which it is asked
/// to drain. No other worker has it, and a new worker gets a new one.
///
/// The parent trusts nothing in it: see `WorkerSnapshot`.
final class ScoreboardSlot: @unchecked Sendable {
    /// What stands there.
    private struct Page: ~Copyable {
        /// It comes first: a signal handler has its address.
        let drain = Atomic<UInt32>(0)
        var fields = Fields()
        /// When each request that is being served has begun, in nanoseconds of CLOCK_MONOTONIC; 0 where there is none.
        /// So many can a worker have at the same time with a start that is known; others are counted, but not timed.
        let starts = InlineArray<256, Atomic<Int64>> { _ in Atomic(0) }
    }

    private let page: UnsafeMutablePointer<Page>
    private let owner = forkcore_process()

    /// What a worker says of itself.
    struct Fields: ~Copyable {
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
        try check(forkcore_shared_open(MemoryLayout<Page>.size, &opened), "mmap")
        page = opened!.bindMemory(to: Page.self, capacity: 1)
        page.initialize(to: Page())
    }

    /// Parent, after the fork.
    func withhold() { _ = forkcore_shared_withhold(page, MemoryLayout<Page>.size) }

    deinit {
        if owner == forkcore_process() { forkcore_shared_close(page, MemoryLayout<Page>.size) }
    }

    var fields: Fields {
        _read { yield page.pointee.fields }
        _modify { yield &page.pointee.fields }
    }

    /// Where the signal handler sets it.
    var drainWord: UnsafeMutablePointer<UInt32> {
        UnsafeMutableRawPointer(page).assumingMemoryBound(to: UInt32.self)
    }

    var isDraining: Bool { page.pointee.drain.load(ordering: .relaxed) != 0 }

    /// Parent: asks it to drain, or with `atOnce` has its next SIGTERM end it, whether it has had one or not. Worker:
    /// notes that nobody is there any more to ask.
    ///
    /// - Returns: what it was asked before; 0: nothing.
    @discardableResult
    func askToDrain(atOnce: Bool = false) -> UInt32 {
        let word = atOnce ? FORKCORE_DRAIN_ASKED | FORKCORE_DRAIN_SIGNALLED : FORKCORE_DRAIN_ASKED
        return page.pointee.drain.bitwiseOr(UInt32(word), ordering: .relaxed).oldValue
    }

    /// Parent, before it asks it to drain: to take of the last clients then.
    func offerLastClients() { _ = page.pointee.drain.bitwiseOr(UInt32(FORKCORE_DRAIN_LAST), ordering: .relaxed) }

    var takesLastClients: Bool { page.pointee.drain.load(ordering: .relaxed) & UInt32(FORKCORE_DRAIN_LAST) != 0 }

    // MARK: Requests

    /// Worker: notes a start, and returns its number; -1 if there are too many.
    func noteStart(_ now: Instant) -> Int {
        for index in page.pointee.starts.indices where page.pointee.starts[index].load(ordering: .relaxed) == 0 {
            let (taken, _) = page.pointee.starts[index].compareExchange(
                expected: 0, desired: now.nanoseconds, ordering: .relaxed)
            if taken { return index }
        }
        return -1
    }

    /// Worker: forgets one, or with nil all.
    func forgetStart(_ number: Int?) {
        let all = page.pointee.starts.indices
        for index in number.map({ $0..<$0 + 1 })?.clamped(to: all) ?? all {
            page.pointee.starts[index].store(0, ordering: .relaxed)
        }
    }

    private func oldestStart() -> Int64? {
        var oldest = Int64.max
        for index in page.pointee.starts.indices {
            let start = page.pointee.starts[index].load(ordering: .relaxed)
            if start > 0, start < oldest { oldest = start }
        }
        return oldest == .max ? nil : oldest
    }

    // MARK: Reading

    /// Parent: what stands there now.
    func read(startedAt: Instant, now: Instant) -> WorkerSnapshot {
        let isBusy = fields.active.load(ordering: .relaxed) > 0
        return WorkerSnapshot(
            isReady: fields.isReady.load(ordering: .acquiring),
            wantsToRetire: fields.wantsToRetire.load(ordering: .relaxed),
            isDraining: isDraining,
            isBusy: isBusy,
            hasConnection: fields.hasConnection.load(ordering: .relaxed),
            requests: fields.requests.load(ordering: .relaxed),
            since: Self.within(startedAt, now, fields.since.load(ordering: .relaxed)),
            oldest: isBusy ? oldestStart().map { Self.within(startedAt, now, $0) } : nil,
            beat: Self.within(startedAt, now, fields.beat.load(ordering: .relaxed)),
            peer: fields.peer.checked)
    }

    private static func within(_ start: Instant, _ now: Instant, _ nanoseconds: Int64) -> Instant {
        min(max(start, Instant(nanoseconds: nanoseconds)), now)
    }
}
