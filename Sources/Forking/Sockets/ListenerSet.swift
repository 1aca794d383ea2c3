// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// A listener cannot be copied, and so cannot be one of several either; this can.
final class SharedListener {
    var listener: Listener

    init(_ listener: consuming Listener) { self.listener = listener }

    var address: SocketAddress { listener.address }
    var descriptor: Int32 { listener.descriptor.rawValue }
}

/// The listeners of a server that accepts by itself. Parent.
///
/// The loop polls one descriptor, however many there are: the only listener's, or an epoll instance that watches several.
/// What each client needs is a number, not an object, as to count a reference would be to write to memory that children share.
struct ListenerSet: ~Copyable {
    private(set) var all: [SharedListener] = []
    /// What to poll for clients; -1 when none are taken any more.
    private(set) var polled: Int32 = -1
    /// Of several listeners.
    private var poll: ParentDescriptor?
    private var isOfSeveral = false
    /// Whether what comes to one of them may have descriptors attached that nobody here takes.
    private(set) var mayHoldRights = false

    var addresses: [SocketAddress] { all.map(\.address) }

    mutating func add(_ listener: consuming Listener) throws(ForkingError) {
        let shared = SharedListener(listener)
        if all.count == 1 { try watch(all[0]) }
        if all.count >= 1 { try watch(shared) }
        all.append(shared)
        if shared.listener.mayHoldRights { mayHoldRights = true }
        isOfSeveral = all.count > 1
        polled = poll?.rawValue ?? shared.descriptor
    }

    private mutating func watch(_ shared: SharedListener) throws(ForkingError) {
        if poll == nil { poll = try ParentDescriptor("epoll_create1", forkcore_poll_open) }
        try check(forkcore_poll_add(poll!.rawValue, shared.descriptor, UInt64(shared.descriptor)), "epoll_ctl")
    }

    /// The socket to take the next client from, or -1 if there is none. Of several that have clients each has its turn:
    /// epoll_wait(2) goes round.
    func next() throws(ForkingError) -> Int32 {
        guard isOfSeveral else { return polled }
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
        isOfSeveral = false
        poll = nil
        all = []
    }
}

extension [SharedListener] {
    /// Clients that wait in the kernel to be accepted.
    var queued: Int {
        reduce(0) { sum, shared in
            var count: UInt32 = 0
            return forkcore_queued(shared.descriptor, &count) == 0 ? sum + Int(count) : sum
        }
    }
}
