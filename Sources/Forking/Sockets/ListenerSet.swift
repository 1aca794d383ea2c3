// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// A listener cannot be copied, and so cannot be one of several either; this can.
final class SharedListener {
    var listener: Listener

    init(_ listener: consuming Listener) { self.listener = listener }

    var address: SocketAddress { listener.address }
    var descriptor: Int32 { listener.descriptor.rawValue }
}

/// The listeners of a server that accepts by itself. Parent.
///
/// The loop polls one descriptor, however many there are: the only listener's, or an epoll instance that watches
/// several. What each client needs is a number, not an object, as to count a reference would be to write to memory that
/// children share.
struct ListenerSet: ~Copyable {
    private(set) var all: [SharedListener] = []
    /// What to poll for clients; -1 when none are taken any more.
    private(set) var polled: Int32 = -1
    /// Of several listeners, or one that is lent.
    private var poll: ParentDescriptor?
    private var isWatching = false
    /// Whether what comes to one of them may have descriptors attached that nobody here takes.
    private(set) var mayHoldRights = false

    var addresses: [SocketAddress] { all.map(\.address) }

    /// - Parameter isLent: it may be left alone for a while, by `leave(_:)`.
    mutating func add(_ listener: consuming Listener, isLent: Bool = false) throws(ForkingError) {
        let shared = SharedListener(listener)
        if poll == nil, isLent || !all.isEmpty {
            poll = try ParentDescriptor("epoll_create1", forkcore_poll_open)
            for other in all { try watch(other.descriptor) }
        }
        if poll != nil { try watch(shared.descriptor) }
        all.append(shared)
        if shared.listener.mayHoldRights { mayHoldRights = true }
        isWatching = poll != nil
        polled = poll?.rawValue ?? shared.descriptor
    }

    /// Clients of this one are looked for again.
    func watch(_ listener: Int32) throws(ForkingError) {
        guard let poll else { return }
        try check(forkcore_poll_add(poll.rawValue, listener, UInt64(listener)), "epoll_ctl")
    }

    /// Clients of this one are left to whoever has it too.
    func leave(_ listener: Int32) {
        if let poll { forkcore_poll_remove(poll.rawValue, listener) }
    }

    /// The socket to take the next client from, or -1 if there is none. Of several that have clients each has its turn:
    /// epoll_wait(2) goes round.
    func next() throws(ForkingError) -> Int32 {
        guard isWatching else { return polled }
        var token: UInt64 = 0
        var count = 0
        try check(forkcore_poll_ready(polled, &token, 1, &count), "epoll_wait")
        return count == 1 ? Int32(token) : -1
    }

    /// Clients that wait in the kernel to be accepted.
    var queued: Int { all.queued }

    /// The program before this one serves on them no more.
    func takeOver() {
        for shared in all { shared.listener.takeOver() }
    }

    /// Takes no more clients. The listeners close, unless somebody else has them too.
    mutating func close() {
        polled = -1
        isWatching = false
        poll = nil
        all = []
    }
}

extension [SharedListener] {
    /// Has those listen again that somebody who has them, too, had shut down, and tells of each.
    ///
    /// - Returns: whether there was one.
    /// - Throws: `ForkingError.Code.invalid` where that is for good; `.system`.
    func listenAgain(_ tell: (SocketAddress) -> Void) throws(ForkingError) -> Bool {
        var hasMended = false
        for shared in self where try shared.listener.listenAgain() {
            hasMended = true
            tell(shared.address)
        }
        return hasMended
    }

    /// Clients that wait in the kernel to be accepted.
    var queued: Int {
        reduce(0) { sum, shared in
            var count: UInt32 = 0
            return forkcore_queued(shared.descriptor, &count) == 0 ? sum + Int(count) : sum
        }
    }
}
