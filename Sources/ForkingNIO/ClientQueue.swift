// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Forking
import NIOCore
import SystemPackage

/// The clients that wait at the worker's listeners, for it and all the others.
///
/// NIO's own listening channels are made for one process. Built for debugging they trap when the client that woke them has
/// gone to another; each client wakes all of them; they shorten the queue of what they are given to 128; and those that
/// are closed throw away what they had accepted for another event loop.
final class ClientQueue: Sendable {
    struct Client: Sendable {
        /// Of whoever takes the client, to close.
        let descriptor: Int32
        let peer: Forking.SocketAddress
    }

    private let worker: Worker
    /// An epoll instance of its own, in which a client wakes one of those that wait, in whatever process.
    private let poll: Int32

    init(_ worker: Worker) throws(ForkingError) {
        self.worker = worker
        var poll: Int32 = -1
        try check(forkcore_poll_open(&poll), "epoll_create1")
        self.poll = poll
        for listener in worker.listeners {
            try check(forkcore_poll_add_exclusive(poll, listener.rawValue, 0), "epoll_ctl")
        }
        try check(forkcore_poll_add(poll, worker.drainDescriptor.rawValue, 0), "epoll_ctl")
    }

    deinit { forkcore_close(poll) }

    /// The next client, if need be waited for; nil once the worker should take no more. Not on an event loop.
    ///
    /// Whoever was woken takes the client at once, as nobody else was woken.
    func next() throws(ForkingError) -> Client? {
        while !worker.isDraining {
            do throws(ForkingError) {
                if let client = try take() { return client }
                try check(forkcore_poll_wait(poll), "epoll_wait")
            } catch .system(_, let code) where Errno.shortages.contains(code) {
                var descriptor = worker.drainDescriptor.rawValue
                var ready: UInt32 = 0
                _ = forkcore_wait_readable(&descriptor, 1, 50_000_000, &ready)
            } catch .system(_, .invalidArgument) {
                return nil  // the parent has stopped, and with it the socket
            }
        }
        return nil
    }

    /// The next client, if one is waiting.
    func take() throws(ForkingError) -> Client? {
        for listener in worker.listeners {
            if let (descriptor, peer) = try Listener.take(from: listener.rawValue) {
                return Client(descriptor: descriptor.rawValue, peer: peer)
            }
        }
        return nil
    }
}

private func check(_ code: Int32, _ call: String) throws(ForkingError) {
    if code != 0 { throw .system(call: call, Errno(rawValue: code)) }
}
