// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// `Listener` is noncopyable and cannot be stored in an array; this box can.
final class SharedListener {
    var listener: Listener

    init(_ listener: consuming Listener) { self.listener = listener }

    var address: SocketAddress { listener.address }
    var descriptor: Int32 { listener.descriptor.rawValue }
}

/// The listeners of a server that accepts clients itself. Parent.
///
/// The loop polls one descriptor: that of the only listener, or an epoll instance that watches several. The path of
/// each client uses numbers, not objects, because counting a reference would write to memory that children share.
struct ListenerSet: ~Copyable {
    private(set) var all: [SharedListener] = []
    /// The descriptor to poll for clients; -1 when no more are accepted.
    private(set) var polled: Int32 = -1
    /// The epoll instance, if there are several listeners, or one that can be lent.
    private var poll: ParentDescriptor?
    private var isWatching = false
    /// Whether clients of any listener may have attached descriptors that were never received.
    private(set) var mayHoldRights = false

    var addresses: [SocketAddress] { all.map(\.address) }

    /// - Parameter isLent: true if `leave(_:)` may be called for it.
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

    /// Polls this listener again.
    func watch(_ listener: Int32) throws(ForkingError) {
        guard let poll else { return }
        try check(forkcore_poll_add(poll.rawValue, listener, UInt64(listener)), "epoll_ctl")
    }

    /// Stops polling this listener, whose clients another process then accepts.
    func leave(_ listener: Int32) {
        if let poll { forkcore_poll_remove(poll.rawValue, listener) }
    }

    /// Accepts the next client, if there is one.
    ///
    /// - Throws: `ForkingError.Code.system`, with EINVAL if another process has shut the listener down.
    func accept() throws(ForkingError) -> Connection? {
        let socket = try next()
        guard socket >= 0 else { return nil }
        guard let (descriptor, peer) = try Listener.take(from: socket) else {
            if forkcore_is_shut_down(socket) { throw .system(call: "accept", .invalidArgument) }
            return nil
        }
        var connection = Connection(descriptor, peer: peer)
        connection.mayHoldRights = mayHoldRights
        return connection
    }

    /// Returns the socket from which to accept the next client, or -1 if there is none. epoll_wait(2) rotates among
    /// several ready sockets.
    func next() throws(ForkingError) -> Int32 {
        guard isWatching else { return polled }
        var token: UInt64 = 0
        var count = 0
        try check(forkcore_poll_ready(polled, &token, 1, &count), "epoll_wait")
        return count == 1 ? Int32(token) : -1
    }

    /// The number of clients that wait in the kernel to be accepted.
    var queued: Int { all.queued }

    /// The predecessor no longer serves on these sockets.
    func takeOver() {
        for shared in all { shared.listener.takeOver() }
    }

    /// Accepts no more clients. Closes the listeners.
    mutating func close() {
        polled = -1
        isWatching = false
        poll = nil
        all = []
    }
}

extension Listener {
    /// Accepts the next connection of a listening socket. Returns nil if none is waiting. The caller must close the
    /// descriptor.
    static func take(from socket: Int32) throws(ForkingError) -> (FileDescriptor, peer: SocketAddress)? {
        var descriptor: Int32 = -1
        var code: Int32 = 0
        let peer = SocketAddress { code = forkcore_accept(socket, $0, $1, &descriptor) }
        switch code {
        case 0:
            return (FileDescriptor(rawValue: descriptor), peer)
        case EAGAIN, ECONNABORTED, EPROTO, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH, EOPNOTSUPP,
            ENETUNREACH, EPERM, ETIMEDOUT:
            return nil  // none was waiting, or its client has gone, which Linux reports here
        default:
            throw .system(call: "accept", Errno(rawValue: code))
        }
    }
}

extension [SharedListener] {
    /// Makes each listener listen again that another process has shut down, and reports it to `tell`.
    ///
    /// - Returns: whether there was one.
    /// - Throws: `ForkingError.Code.invalid` if one cannot listen again; `.system`.
    func listenAgain(_ tell: (SocketAddress) -> Void) throws(ForkingError) -> Bool {
        var hasMended = false
        for shared in self where try shared.listener.listenAgain() {
            hasMended = true
            tell(shared.address)
        }
        return hasMended
    }

    /// The number of clients that wait in the kernel to be accepted.
    var queued: Int {
        reduce(0) { sum, shared in
            var count: UInt32 = 0
            return forkcore_queued(shared.descriptor, &count) == 0 ? sum + Int(count) : sum
        }
    }
}
