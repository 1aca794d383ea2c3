// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Synchronization
package import SystemPackage

/// The shared listeners, as one worker waits for their clients, in whatever kind of loop.
package final class AcceptQueue: Sendable {
    /// The descriptor is the caller's to close.
    package typealias Client = (descriptor: FileDescriptor, peer: SocketAddress)

    private let listeners: [Int32]
    private let lifeline: Int32
    private let slot: ScoreboardSlot
    private let lastClients: Int32
    private let wakeEvent: Int32
    /// How long this process may live on without a parent, which would have ended it in time.
    private let orphanTimeout: Int64
    private let poll: Int32
    private static let listenerToken: UInt64 = 0, lifelineToken: UInt64 = 1
    /// How many clients are waited for before one is looked for at once; 0 while that finds one each time. Where
    /// clients come faster than they are served, to wait would be a system call in vain; where they do not, to look
    /// would be.
    private let untilLook = Atomic(0)
    private static let waitsBetweenLooks = 8
    /// It may have been woken for a client of another listener than the one that it took a client from.
    private let owesLook = Atomic(false)
    private let turns = Atomic(0)
    /// Clients taken since the lifeline was looked at last.
    private let unwatched = Atomic(0)
    private static let clientsBetweenLooks = 128

    /// An epoll instance of the worker's own. On one that it shared with others, a client would wake them all.
    init(_ setup: WorkerSetup) throws(ForkingError) {
        listeners = setup.listeners
        lifeline = setup.lifeline
        lastClients = setup.lastClients
        slot = setup.slot
        wakeEvent = setup.wakeEvent
        orphanTimeout = setup.orphanTimeout
        var poll: Int32 = -1
        try check(forkcore_poll_open(&poll), "epoll_create1")
        for listener in listeners {
            try check(forkcore_poll_add_exclusive(poll, listener, Self.listenerToken), "epoll_ctl")
        }
        try check(forkcore_poll_add(poll, lifeline, Self.lifelineToken), "epoll_ctl")
        self.poll = poll
    }

    /// The next client, if need be waited for; nil once the worker should take no more. Not on an event loop.
    ///
    /// Whoever was woken takes the client, or looks before it leaves, as nobody else was woken.
    ///
    /// - Throws: `ForkingError.Code.system` if waiting or accepting fails for good; shortages are waited out.
    package func next() throws(ForkingError) -> Client? { try next(nil) }

    /// - Parameter lingering: whom its one thread has served, and looks after while it waits.
    func next(_ lingering: Lingering?) throws(ForkingError) -> Client? {
        slot.fields.takesFromQueue.store(true, ordering: .relaxed)
        while !slot.isDraining {
            if let client = try wait(lingering) { return client }
        }
        return takeLast()
    }

    /// A client that is still to be taken: that which this worker alone was woken for, and when the whole server stops,
    /// of those that waited then.
    private func takeLast() -> Client? {
        if owesLook.load(ordering: .relaxed), let client = try? take() { return client }
        return slot.takesLastClients ? LastClients.next(from: lastClients) : nil
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
            var token: UInt64 = 0
            try check(forkcore_poll_wait(poll, pause, &token), "epoll_wait")
            if token == Self.lifelineToken { noteEndOfLifeline() }
            unwatched.store(0, ordering: .relaxed)
            if listeners.count > 1 { owesLook.store(true, ordering: .relaxed) }
            if let client = try take() { return client }
            // There was one, whom another took; or none, and there will be none.
            if token == Self.listenerToken, listeners.contains(where: forkcore_is_shut_down) {
                throw .system(call: "accept", .invalidArgument)
            }
            return nil
        } catch let error where error.errno == .invalidArgument {
            // Somebody has shut the listener down: the parent, as it stops, or another worker; then the parent mends
            // it.
            if !slot.isDraining { forkcore_event_add(wakeEvent, 1) }
            lookAtLifeline(atMost: Admission.pause)
            return nil
        } catch let error where error.errno.map(Errno.shortages.contains) == true {
            lingering?.closeAll()
            lookAtLifeline(atMost: Admission.pause)
            return nil
        }
    }

    /// The next client, if one is waiting. Each time from another listener on, so that none is served before all
    /// others.
    ///
    /// - Throws: `ForkingError.Code.system`, in a shortage too.
    package func take() throws(ForkingError) -> Client? {
        // Who finds a client each time never waits, and would not hear that its parent has gone.
        if unwatched.add(1, ordering: .relaxed).newValue >= Self.clientsBetweenLooks { lookAtLifeline(atMost: .zero) }
        let first = listeners.count > 1 ? turns.add(1, ordering: .relaxed).newValue % listeners.count : 0
        for index in listeners.indices {
            let listener = listeners[(first + index) % listeners.count]
            if let (descriptor, peer) = try Listener.take(from: listener) { return (descriptor, peer) }
        }
        if listeners.count > 1 { owesLook.store(false, ordering: .relaxed) }
        return nil
    }

    private func lookAtLifeline(atMost time: Duration) {
        unwatched.store(0, ordering: .relaxed)
        if (try? waitUntilReadable(lifeline, atMost: time)) == true { noteEndOfLifeline() }
    }

    /// A parent that asks to drain says so in the word first. One that does not has gone: then nobody is there any more
    /// who would end what does not end by itself.
    private func noteEndOfLifeline() {
        guard slot.askToDrain() == 0 else { return }
        _ = forkcore_end_after(orphanTimeout)
    }
}
