// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Synchronization
import SystemPackage

/// The shared listeners, as one worker waits for their clients, in whatever kind of loop.
package final class AcceptQueue: Sendable {
    /// The descriptor is the caller's to close.
    package typealias Client = (descriptor: FileDescriptor, peer: SocketAddress)

    private let listeners: [Int32]
    private let lifeline: Int32
    private let seat: Seat
    private let lastClients: Int32
    private let poll: Int32
    /// How many clients are waited for before one is looked for at once; 0 while that finds one each time. Where clients
    /// come faster than they are served, to wait would be a system call in vain; where they do not, to look would be.
    private let untilLook = Atomic(0)
    private static let waitsBetweenLooks = 8
    /// It may have been woken for a client of another listener than the one that it took a client from.
    private let owesLook = Atomic(false)
    private let turns = Atomic(0)

    /// An epoll instance of the worker's own. On one that it shared with others, a client would wake them all.
    init(_ listeners: [Int32], lifeline: Int32, lastClients: Int32, seat: Seat) throws(ForkingError) {
        self.listeners = listeners
        self.lifeline = lifeline
        self.lastClients = lastClients
        self.seat = seat
        var poll: Int32 = -1
        try check(forkcore_poll_open(&poll), "epoll_create1")
        for listener in listeners {
            try check(forkcore_poll_add_exclusive(poll, listener, 0), "epoll_ctl")
        }
        try check(forkcore_poll_add(poll, lifeline, 1), "epoll_ctl")
        self.poll = poll
    }

    /// The next client, if need be waited for; nil once the worker should take no more. Not on an event loop.
    ///
    /// Whoever was woken takes the client, or looks before it leaves, as nobody else was woken.
    ///
    /// - Throws: `ForkingError.system` if waiting or accepting fails for good; shortages are waited out.
    package func next() throws(ForkingError) -> Client? { try next(nil) }

    /// - Parameter lingering: whom its one thread has served, and looks after while it waits.
    func next(_ lingering: Lingering?) throws(ForkingError) -> Client? {
        seat.lines.pointee.takesFromQueue.store(true, ordering: .relaxed)
        do throws(ForkingError) {
            while !seat.isDraining {
                if let client = try wait(lingering) { return client }
            }
            return takeLast()
        } catch .system(_, .invalidArgument) where seat.isDraining {
            return takeLast()  // the parent has stopped, and with it the socket
        }
    }

    /// A client that is still to be taken: that which this worker alone was woken for, and when the whole server stops, of
    /// those that waited then.
    private func takeLast() -> Client? {
        if owesLook.load(ordering: .relaxed), let client = try? take() { return client }
        return seat.takesLastClients ? LastClients.next(from: lastClients) : nil
    }

    /// A client if there is one, or after something has happened.
    private func wait(_ lingering: Lingering?) throws(ForkingError) -> Client? {
        do throws(ForkingError) {
            let nextLook = lingering?.look()
            let waits = untilLook.load(ordering: .relaxed)
            if waits == 0 {
                if let client = try take() { return client }
                untilLook.store(Self.waitsBetweenLooks, ordering: .relaxed)
            } else {
                untilLook.store(waits - 1, ordering: .relaxed)
            }
            let pause = nextLook.map { Int32(clamping: max(.zero, $0 - .now).inMilliseconds) } ?? -1
            try check(forkcore_poll_wait(poll, pause), "epoll_wait")
            if listeners.count > 1 { owesLook.store(true, ordering: .relaxed) }
            return try take()
        } catch .system(_, let code) where Errno.shortages.contains(code) {
            lingering?.closeAll()
            var descriptor = lifeline
            var ready: UInt32 = 0
            _ = forkcore_wait_readable(&descriptor, 1, Admission.pause.inNanoseconds, &ready)
            return nil
        }
    }

    /// The next client, if one is waiting. Each time from another listener on, so that none is served before all others.
    ///
    /// - Throws: `ForkingError.system`, in a shortage too.
    package func take() throws(ForkingError) -> Client? {
        let first = listeners.count > 1 ? turns.add(1, ordering: .relaxed).newValue % listeners.count : 0
        for index in listeners.indices {
            let listener = listeners[(first + index) % listeners.count]
            if let (descriptor, peer) = try Listener.take(from: listener) { return (descriptor, peer) }
        }
        if listeners.count > 1 { owesLook.store(false, ordering: .relaxed) }
        return nil
    }
}
