// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization

/// Host: all isolates of a zygote, and the thread that receives for them where no caller's thread does: the starts and
/// ends of children, and the replies to calls that are awaited. It starts children anew, and fires timers.
///
/// The thread exists while there are isolates, and has all signals blocked. Of the user's code it runs `onEvent` and
/// `onChildEnd`.
///
/// Lock order: this lock is taken after an isolate's, and no other is taken while it is held.
final class Isolates: Sendable {
    private struct State {
        var isolates: [UInt64: IsolateCore] = [:]
        /// Those that have something to do other than receive.
        var woken: Set<UInt64> = []
        /// What the thread waits with; nil if there is none.
        var poll: IsolatePoll?
    }

    private let state = Mutex(State())
    /// When the next timer fires, or something earlier, in nanoseconds.
    private let nextDue = Atomic(Int64.max)
    /// Whatever comes within this time comes sooner than the thread could be woken.
    static let soon = Duration.microseconds(100)
    private let areKilled = Atomic(false)
    private static let lastNumber = Atomic<UInt64>(0)

    /// Adds an isolate, which gets a number.
    func add(_ make: (UInt64) -> IsolateCore) throws(ForkingError) -> IsolateCore {
        try state.withLock { (state) throws(ForkingError) in
            if state.poll == nil {
                let poll = try IsolatePoll()
                try start(with: poll)
                state.poll = poll
            }
            let isolate = make(Self.lastNumber.add(1, ordering: .relaxed).newValue)
            state.isolates[isolate.number] = isolate
            return isolate
        }
    }

    /// An isolate has ended for good.
    func remove(_ isolate: IsolateCore) {
        let poll = state.withLock { state in
            state.isolates[isolate.number] = nil
            return state.isolates.isEmpty ? state.poll : nil
        }
        poll?.wake()  // the thread ends
    }

    /// Has the thread see to an isolate.
    func wake(_ isolate: IsolateCore) {
        let poll: IsolatePoll? = state.withLock { state in
            guard state.isolates[isolate.number] != nil else { return nil }
            state.woken.insert(isolate.number)
            return state.poll
        }
        poll?.wake()
    }

    /// Has the thread see to all: the zygote has been told to end.
    func wakeAll() {
        let poll = state.withLock { state in
            state.woken.formUnion(state.isolates.keys)
            return state.poll
        }
        poll?.wake()
    }

    /// The zygote accepts no further calls, and ends with its last child.
    func drain() {
        let all = state.withLock { Array($0.isolates.values) }
        all.forEach { $0.close(timeout: nil) }
        wakeAll()
    }

    /// What the channels of children are watched with. There is one while there are isolates.
    var poll: IsolatePoll? { state.withLock { $0.poll } }

    /// Whether the zygote was told to kill its children.
    var wereKilled: Bool { areKilled.load(ordering: .acquiring) }
    func noteKilled() { areKilled.store(true, ordering: .releasing) }

    /// Sees to it that all timers are looked at then.
    func noteDue(_ due: Instant) {
        var present = nextDue.load(ordering: .relaxed)
        while due.nanoseconds < present {
            let (exchanged, original) = nextDue.weakCompareExchange(
                expected: present, desired: due.nanoseconds, ordering: .relaxed)
            if exchanged { return poll?.wake() ?? () }
            present = original
        }
    }

    // MARK: The thread

    private final class Start {
        let isolates: Isolates
        let poll: IsolatePoll
        init(_ isolates: Isolates, _ poll: IsolatePoll) { (self.isolates, self.poll) = (isolates, poll) }
    }

    private func start(with poll: IsolatePoll) throws(ForkingError) {
        let start = Unmanaged.passRetained(Start(self, poll))
        let code = Threads.startDetached(start.toOpaque()) {
            let start = Unmanaged<Start>.fromOpaque($0!).takeRetainedValue()
            start.isolates.serve(start.poll)
            return nil
        }
        if code != 0 { start.release() }
        try check(code, "pthread_create")
    }

    private func serve(_ poll: IsolatePoll) {
        var isBusy = false
        while let woken = takeWoken() {
            woken.forEach { $0.turn() }
            if nextDue.load(ordering: .relaxed) <= Instant.now.nanoseconds {
                nextDue.store(.max, ordering: .relaxed)
                state.withLock { Array($0.isolates.values) }.forEach { $0.turn() }
            }
            let due = nextDue.load(ordering: .relaxed)
            let begun = Instant.now
            let token = poll.wait(until: due == .max ? nil : Instant(nanoseconds: due), staysAwake: isBusy)
            guard let token else { continue }
            isBusy = .now - begun < Self.soon * 2
            state.withLock { $0.isolates[token] }?.receive()
        }
    }

    /// Nil if there are no isolates any more.
    private func takeWoken() -> [IsolateCore]? {
        state.withLock { state in
            guard !state.isolates.isEmpty else {
                state.poll = nil
                return nil
            }
            guard !state.woken.isEmpty else { return [] }
            defer { state.woken = [] }
            return state.woken.compactMap { state.isolates[$0] }
        }
    }
}

/// What the thread of isolates waits with. Open as long as an isolate or the thread uses it.
final class IsolatePoll: Sendable {
    private let poll: Int32
    private let event: Int32
    private static let eventToken: UInt64 = 0

    init() throws(ForkingError) {
        let poll = try OwnedDescriptor("epoll_create1", forkcore_poll_open)
        let event = try OwnedDescriptor("eventfd", forkcore_event_open)
        try check(forkcore_poll_add(poll.rawValue, event.rawValue, Self.eventToken), "epoll_ctl")
        (self.poll, self.event) = (poll.release(), event.release())
    }

    deinit {
        forkcore_close(poll)
        forkcore_close(event)
    }

    func wake() { forkcore_event_add(event, 1) }

    /// With `input`, whatever comes; otherwise only the other end's close.
    func watch(_ descriptor: Int32, _ token: UInt64, input: Bool) {
        _ = forkcore_poll_watch(poll, descriptor, token, input)
    }

    func forget(_ descriptor: Int32) { forkcore_poll_remove(poll, descriptor) }

    /// Returns the token of a descriptor that has something; nil after `due`, or after `wake`. `staysAwake`: whether
    /// that is expected soon.
    func wait(until due: Instant?, staysAwake: Bool) -> UInt64? {
        if staysAwake { _ = forkcore_readable_soon(poll, Isolates.soon.inNanoseconds) }
        var token = UInt64.max
        let rest = due.map { max(.zero, $0 - .now).inMilliseconds } ?? -1
        guard forkcore_poll_wait(poll, Int32(clamping: rest), &token) == 0, token != .max else { return nil }
        guard token == Self.eventToken else { return token }
        _ = forkcore_event_take(event)
        return nil
    }
}

extension Threads {
    /// Starts a thread that has all signals blocked, and that nobody waits for. Returns an errno or 0.
    static func startDetached(
        _ argument: UnsafeMutableRawPointer,
        _ body: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer?
    ) -> Int32 {
        var all = sigset_t()
        var mask = sigset_t()
        sigfillset(&all)
        pthread_sigmask(SIG_SETMASK, &all, &mask)
        defer { pthread_sigmask(SIG_SETMASK, &mask, nil) }
        var thread = pthread_t()
        let code = pthread_create(&thread, nil, body, argument)
        if code == 0 { pthread_detach(thread) }
        return code
    }
}
