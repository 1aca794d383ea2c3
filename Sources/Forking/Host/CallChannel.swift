// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization
import SystemPackage

/// Host, any thread: a call's channel, and the request until it is sent.
///
/// The socket pair is opened only when the call gets a slot, or when the caller asks for a descriptor to poll. A
/// waiting call therefore uses no descriptor of its own, and a burst of calls cannot use up the host's descriptors.
///
/// Lock order: this lock is taken last. No code takes another lock while it holds this one.
final class CallChannel: Sendable {
    private struct State {
        /// The host's end; -1 before it is opened and after it is closed.
        var ours: Int32 = -1
        /// The child's end, until it is sent to the zygote.
        var theirs: Int32 = -1
        /// True if the channel is a warm child's, which has its end already.
        var isWarm = false
        /// True if the kernel refuses descriptors that the child attaches, so that none can be in the channel.
        var refusesRights = false
        /// Nil once the request was sent or dropped.
        var request: CallMessage?
        /// True if the request's descriptors are duplicates, made because the caller may close the originals.
        var ownsDescriptors = false
        var isOver = false
        /// True if the caller polls the host's end in its own event loop: it then stays open for the life of the call.
        var isPolled = false
        var hasPlace = false
        var failure: ForkingError?
        var onDecision: (@Sendable () -> Void)?
    }

    let expecting: Int
    private let state: Mutex<State>
    /// Incremented when the call gets a slot, or fails before it has one.
    private let word = UnsafeWord()

    init(_ request: CallMessage, expecting: Int) {
        var request = request
        request.head.descriptors = UInt32(expecting)
        self.expecting = expecting
        state = Mutex(State(request: request))
    }

    deinit { close() }

    // MARK: The call's side

    /// The descriptor to poll; opens the channel if necessary. -1 if no descriptor is available, or if the call is
    /// over.
    var descriptor: Int32 {
        state.withLock {
            guard !$0.isOver, $0.failure == nil || $0.isPolled, open(&$0) == 0 else { return -1 }
            $0.isPolled = true
            return $0.ours
        }
    }

    /// The host's end if the call has a slot, else -1; and the error if it will never get one.
    var standing: (channel: Int32, failure: ForkingError?) {
        state.withLock { ($0.hasPlace ? $0.ours : -1, $0.failure) }
    }

    /// Shuts down the host's end for writing. The zygote then kills the child.
    func hangUp() { state.withLock { if $0.ours >= 0 { forkcore_finish_sending($0.ours) } } }

    /// The call has its reply.
    func finish() {
        if !state.withLock({ $0.isPolled }) { close() }
    }

    /// The call is over. Does not wait for anything that the child may still send.
    func close() {
        state.withLock { state in
            guard !state.isOver else { return }
            state.isOver = true
            dropRequest(&state)
            closeTheirs(&state)
            closeOurs(&state)
        }
    }

    private func closeTheirs(_ state: inout State) {
        if state.theirs >= 0 { forkcore_close(state.theirs) }
        state.theirs = -1
    }

    private func closeOurs(_ state: inout State) {
        guard state.ours >= 0 else { return }
        if state.refusesRights { forkcore_close(state.ours) } else { forkcore_channel_close(state.ours) }
        state.ours = -1
    }

    /// Waits until the call gets a slot or fails or, if it has a slot, until the channel is readable.
    func wait(atMost duration: Duration) throws(ForkingError) {
        let value = word.value
        let (channel, failure) = standing
        guard failure == nil else { return }
        guard channel >= 0 else { return word.wait(while: value, atMost: duration) }
        _ = try waitUntilReadable(channel, atMost: duration)
    }

    /// Calls `body` once, when the call gets a slot or fails: at once, or later on another thread, which `body` must
    /// not block.
    func whenDecided(_ body: @escaping @Sendable () -> Void) {
        let isDecided = state.withLock { state in
            let isDecided = state.hasPlace || state.failure != nil
            if !isDecided { state.onDecision = body }
            return isDecided
        }
        if isDecided { body() }
    }

    // MARK: The client's side

    /// Opens the channel if necessary and returns the child's end. EMFILE, ENFILE, ENOBUFS or ENOMEM; ECANCELED if the
    /// call is over.
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
        // The reply has no descriptors, so the kernel is told to refuse them (SO_PASSRIGHTS): a child cannot attach a
        // descriptor whose close blocks. On kernels without that option, another process closes what was attached.
        if code == 0, expecting == 0 { state.refusesRights = forkcore_refuse_rights(state.ours) == 0 }
        return code
    }

    /// Takes the channel of a warm child, which refuses descriptors if the kernel can. Returns false if the call is
    /// over, or has a channel, because its caller polls that.
    func take(warm channel: Int32, refusesRights: Bool) -> Bool {
        state.withLock { state in
            guard !state.isOver, state.ours < 0 else { return false }
            state.ours = channel
            state.isWarm = true
            state.refusesRights = expecting == 0 && refusesRights
            if expecting > 0, refusesRights { _ = forkcore_accept_rights(channel) }
            return true
        }
    }

    /// From now on the child may attach descriptors to what it sends: a reply is expected to have some.
    func acceptRights() {
        state.withLock { state in
            guard state.ours >= 0, state.refusesRights, forkcore_accept_rights(state.ours) == 0 else { return }
            state.refusesRights = false
        }
    }

    /// Duplicates the request's descriptors for as long as the call waits, because the caller may close its own.
    func holdDescriptors() throws(ForkingError) {
        try state.withLock { (state) throws(ForkingError) in
            guard var request = state.request, !request.descriptors.isEmpty, !state.ownsDescriptors else { return }
            try request.duplicateDescriptors()
            state.request = request
            state.ownsDescriptors = true
        }
    }

    /// The number of descriptors that the call holds while it waits.
    var heldDescriptors: Int { state.withLock { $0.ownsDescriptors ? $0.request?.descriptors.count ?? 0 : 0 } }

    /// Sends the request, after the zygote has got the child's end. Copying a large request into a memfd takes time, so
    /// only this lock is held.
    ///
    /// - Returns: false if the channel was that of a warm child which is no more: the call needs another one.
    func send() -> Bool {
        var body: (@Sendable () -> Void)?
        let isSent = state.withLock { state in
            closeTheirs(&state)
            if let request = state.request, !state.isOver {
                do throws(ForkingError) { try request.send(over: state.ours) } catch {
                    if !Self.isForNobody(error) {
                        state.failure = error
                        forkcore_finish_sending(state.ours)
                    } else if state.isWarm {
                        state.isWarm = false
                        closeOurs(&state)
                        return false
                    }
                    // Otherwise the child was not forked, or has ended. The channel says why.
                }
            }
            dropRequest(&state)
            state.hasPlace = true
            body = state.onDecision.take()
            return true
        }
        guard isSent else { return false }
        word.advance()
        body?()
        return true
    }

    private static func isForNobody(_ error: ForkingError) -> Bool {
        error == .system(call: "sendmsg", .brokenPipe) || error == .system(call: "sendmsg", .connectionReset)
    }

    /// The call will never get a slot.
    func fail(_ error: ForkingError) {
        let body = state.withLock { state in
            state.failure = state.failure ?? error
            dropRequest(&state)
            closeTheirs(&state)  // a caller that polls sees end of file
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

/// A 32-bit word that threads wait on. futex(2)
struct UnsafeWord: @unchecked Sendable, ~Copyable {
    private let word = UnsafeMutablePointer<UInt32>.allocate(capacity: 1)

    init() { word.initialize(to: 0) }
    deinit { word.deallocate() }

    var value: UInt32 { forkcore_word_value(word) }
    func advance() { forkcore_word_advance(word) }
    func wait(while value: UInt32, atMost duration: Duration) {
        forkcore_word_wait(word, value, duration.inNanoseconds)
    }
}
