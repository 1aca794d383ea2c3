// SPDX-License-Identifier: Apache-2.0
//
// The parent makes it; parent and worker use it.

import CForkCore
import Synchronization

/// A page of memory that the parent shares with one worker: the worker's scoreboard entry, and the word by which the
/// parent asks it to drain. Each worker has its own page, also a replacement.
///
/// The parent trusts nothing in it: see `WorkerSnapshot`.
final class ScoreboardSlot: @unchecked Sendable {
    /// The page's contents.
    private struct Page: ~Copyable {
        /// Must come first: the signal handler has its address.
        let drain = Atomic<UInt32>(0)
        var fields = Fields()
        /// The start of each request in progress, in nanoseconds of CLOCK_MONOTONIC; 0 in a free entry. Requests beyond
        /// this number are counted, but not timed.
        let starts = InlineArray<256, Atomic<Int64>> { _ in Atomic(0) }
    }

    private let page: UnsafeMutablePointer<Page>
    private let owner = forkcore_process()

    /// What a worker reports.
    struct Fields: ~Copyable {
        let isReady = Atomic(false)
        /// The worker asks to be replaced.
        let wantsToRetire = Atomic(false)
        let active = Atomic<Int32>(0)
        /// The worker serves one connection at a time, and has one, whether or not a request is in progress on it.
        let hasConnection = Atomic(false)
        /// The worker accepts its clients from an `AcceptQueue`.
        let takesFromQueue = Atomic(false)
        let requests = Atomic<UInt64>(0)
        /// When a request last began or ended: nanoseconds of CLOCK_MONOTONIC.
        let since = Atomic<Int64>(0)
        let beat = Atomic<Int64>(0)
        /// Written and read without a lock: a torn read gives an invalid or a wrong address.
        var peer = SocketAddress { (_, _) in }
    }

    init() throws(ForkingError) {
        var opened: UnsafeMutableRawPointer?
        try check(forkcore_shared_open(MemoryLayout<Page>.size, &opened), "mmap")
        page = opened!.bindMemory(to: Page.self, capacity: 1)
        page.initialize(to: Page())
    }

    /// Parent, after the fork: keeps the page out of children forked later. madvise(2) with MADV_DONTFORK.
    func withhold() { _ = forkcore_shared_withhold(page, MemoryLayout<Page>.size) }

    deinit {
        if owner == forkcore_process() { forkcore_shared_close(page, MemoryLayout<Page>.size) }
    }

    var fields: Fields {
        _read { yield page.pointee.fields }
        _modify { yield &page.pointee.fields }
    }

    /// The address at which the signal handler sets the word.
    var drainWord: UnsafeMutablePointer<UInt32> {
        UnsafeMutableRawPointer(page).assumingMemoryBound(to: UInt32.self)
    }

    var isDraining: Bool { page.pointee.drain.load(ordering: .relaxed) != 0 }

    /// Parent: asks the worker to drain; with `atOnce`, the worker's next SIGTERM then ends it, even its first. Worker:
    /// records that its parent has ended.
    ///
    /// - Returns: the word's previous value; 0 if the worker had not been asked.
    @discardableResult
    func askToDrain(atOnce: Bool = false) -> UInt32 {
        let word = atOnce ? FORKCORE_DRAIN_ASKED | FORKCORE_DRAIN_SIGNALLED : FORKCORE_DRAIN_ASKED
        return page.pointee.drain.bitwiseOr(UInt32(word), ordering: .relaxed).oldValue
    }

    /// Parent, before it asks the worker to drain: lets it take clients from `LastClients`.
    func offerLastClients() { _ = page.pointee.drain.bitwiseOr(UInt32(FORKCORE_DRAIN_LAST), ordering: .relaxed) }

    var takesLastClients: Bool { page.pointee.drain.load(ordering: .relaxed) & UInt32(FORKCORE_DRAIN_LAST) != 0 }

    // MARK: Requests

    /// Worker: records a start and returns its index; -1 if there is no free entry.
    func noteStart(_ now: Instant) -> Int {
        for index in page.pointee.starts.indices where page.pointee.starts[index].load(ordering: .relaxed) == 0 {
            let (taken, _) = page.pointee.starts[index].compareExchange(
                expected: 0, desired: now.nanoseconds, ordering: .relaxed)
            if taken { return index }
        }
        return -1
    }

    /// Worker: clears one entry, or all if nil.
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

    /// Parent: reads the page.
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

/// A worker's state as it reports it itself, limited to what is possible. A worker that reports a false state can look
/// busy, idle or stuck, and be replaced for that. It has no other effect.
struct WorkerSnapshot: Sendable {
    var isReady: Bool
    var wantsToRetire: Bool
    var isDraining: Bool
    var isBusy: Bool
    var hasConnection: Bool
    var requests: UInt64
    /// When a request last began or ended.
    var since: Instant
    /// When the oldest request began that is being served, among those with a timeout.
    var oldest: Instant?
    var beat: Instant
    var peer: SocketAddress?
}
