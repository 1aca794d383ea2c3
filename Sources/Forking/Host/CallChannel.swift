// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization
import SystemPackage

/// Host: a call's channel, and the request until it is sent there.
///
/// There is a channel once the call has a place: while it waits for one it takes no descriptor, so that no burst of
/// calls takes all that the host can have. Unless somebody asks for one to poll.
///
/// Its lock is the last to be taken: nobody takes another with it.
final class CallChannel: Sendable {
    private struct State {
        /// The host's end; -1 before it is open, and after it was closed.
        var ours: Int32 = -1
        /// The child's end, until the zygote has it.
        var theirs: Int32 = -1
        /// Nil once it was sent, or is not to be.
        var request: CallMessage?
        /// Whether the request's descriptors are duplicates, made as the caller may close his.
        var ownsDescriptors = false
        var isOver = false
        /// Whether somebody has the host's end in a loop of his own: it stays open as long as the call is there.
        var isPolled = false
        var hasPlace = false
        var failure: ForkingError?
        var onDecision: (@Sendable () -> Void)?
    }

    let expecting: Int
    private let state: Mutex<State>
    /// Changes when the call gets a place, or is not to get one.
    private let word = UnsafeWord()

    init(_ request: CallMessage, expecting: Int) {
        var request = request
        request.head.descriptors = UInt32(expecting)
        self.expecting = expecting
        state = Mutex(State(request: request))
    }

    deinit { close() }

    // MARK: The call's side

    /// To be polled; opened, if it is not yet. -1 if there are no descriptors to be had, or it is over.
    var descriptor: Int32 {
        state.withLock {
            guard !$0.isOver, $0.failure == nil || $0.isPolled, open(&$0) == 0 else { return -1 }
            $0.isPolled = true
            return $0.ours
        }
    }

    /// The host's end once the call has a place, else -1; and why it will have none.
    var standing: (channel: Int32, failure: ForkingError?) {
        state.withLock { ($0.hasPlace ? $0.ours : -1, $0.failure) }
    }

    /// Has the child killed.
    func hangUp() { state.withLock { if $0.ours >= 0 { forkcore_finish_sending($0.ours) } } }

    /// The call has its answer.
    func finish() {
        if !state.withLock({ $0.isPolled }) { close() }
    }

    /// The call is over. What its child may still have sent is not waited for.
    func close() {
        state.withLock { state in
            guard !state.isOver else { return }
            state.isOver = true
            dropRequest(&state)
            forkcore_close(state.theirs)
            if state.ours >= 0 { forkcore_channel_close(state.ours) }
            (state.ours, state.theirs) = (-1, -1)
        }
    }

    /// Waits for news: of a place, or in the channel.
    func wait(atMost duration: Duration) throws(ForkingError) {
        let value = word.value
        let (channel, failure) = standing
        guard failure == nil else { return }
        guard channel >= 0 else { return word.wait(while: value, atMost: duration) }
        _ = try waitUntilReadable(channel, atMost: duration)
    }

    /// Calls `body`, once, when the call has a place or will have none: now, or on another thread, which is not to be
    /// held up.
    func whenDecided(_ body: @escaping @Sendable () -> Void) {
        let isDecided = state.withLock { state in
            let isDecided = state.hasPlace || state.failure != nil
            if !isDecided { state.onDecision = body }
            return isDecided
        }
        if isDecided { body() }
    }

    // MARK: The link's side

    /// The end for the child. EMFILE, ENFILE, ENOBUFS, ENOMEM; ECANCELED if the call is over.
    func theirEnd(_ descriptor: inout Int32) -> Int32 {
        state.withLock { state in
            guard !state.isOver else { return ECANCELED }
            let code = open(&state)
            descriptor = state.theirs
            return code
        }
    }

    private func open(_ state: inout State) -> Int32 {
        guard state.ours < 0 else { return 0 }
        let code = forkcore_channel_open(&state.ours, &state.theirs)
        // Nobody can attach what it would take time to close; where the kernel cannot see to that, it is closed
        // elsewhere.
        if code == 0, expecting == 0 { _ = forkcore_refuse_rights(state.ours) }
        return code
    }

    /// While it waits, the request's descriptors have to stay.
    func holdDescriptors() throws(ForkingError) {
        try state.withLock { (state) throws(ForkingError) in
            guard var request = state.request, !request.descriptors.isEmpty, !state.ownsDescriptors else { return }
            let given = request.descriptors
            request.descriptors = []
            for descriptor in given {
                let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
                guard copy >= 0 else {
                    let code = failure(of: copy)
                    request.descriptors.forEach(forkcore_close)
                    throw .system(call: "fcntl", Errno(rawValue: code))
                }
                request.descriptors.append(copy)
            }
            state.request = request
            state.ownsDescriptors = true
        }
    }

    /// How many descriptors it holds while it waits.
    var heldDescriptors: Int { state.withLock { $0.ownsDescriptors ? $0.request?.descriptors.count ?? 0 : 0 } }

    /// The zygote has its end. The request follows: to put a long one into memory takes its time, and no lock but this
    /// one's.
    func send() {
        let body = state.withLock { state in
            forkcore_close(state.theirs)
            state.theirs = -1
            if let request = state.request, !state.isOver {
                do throws(ForkingError) { try request.send(over: state.ours) } catch {
                    // A child that was not forked, or has ended, cannot take it: why, is in the channel.
                    if !Self.isForNobody(error) {
                        state.failure = error
                        forkcore_finish_sending(state.ours)
                    }
                }
            }
            dropRequest(&state)
            state.hasPlace = true
            return state.onDecision.take()
        }
        word.advance()
        body?()
    }

    private static func isForNobody(_ error: ForkingError) -> Bool {
        error == .system(call: "sendmsg", .brokenPipe) || error == .system(call: "sendmsg", .connectionReset)
    }

    /// It will have no place.
    func fail(_ error: ForkingError) {
        let body = state.withLock { state in
            state.failure = state.failure ?? error
            dropRequest(&state)
            forkcore_close(state.theirs)  // whoever polls sees the end
            state.theirs = -1
            return state.onDecision.take()
        }
        word.advance()
        body?()
    }

    private func dropRequest(_ state: inout State) {
        if state.ownsDescriptors { state.request?.descriptors.forEach(forkcore_close) }
        state.request = nil
        state.ownsDescriptors = false
    }
}

/// A word that threads wait for. futex(2)
private struct UnsafeWord: @unchecked Sendable, ~Copyable {
    private let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)

    init() { word.initialize(to: 0) }
    deinit { word.deallocate() }

    var value: UInt32 { forkcore_word_value(word) }
    func advance() { forkcore_word_advance(word) }
    func wait(while value: UInt32, atMost duration: Duration) {
        forkcore_word_wait(word, value, duration.inNanoseconds)
    }
}
