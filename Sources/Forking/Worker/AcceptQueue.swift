// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Synchronization
package import SystemPackage

/// Worker, any thread: waits for clients at the shared listeners, and accepts them.
package final class AcceptQueue: Sendable {
    /// The caller must close the descriptor.
    package typealias Client = (descriptor: FileDescriptor, peer: SocketAddress)

    private let listeners: [Int32]
    private let lifeline: Int32
    private let slot: ScoreboardSlot
    private let lastClients: Int32
    private let wakeEvent: Int32
    /// How long this process may live without its parent, which would have killed it in time. Nanoseconds.
    private let orphanTimeout: Int64
    private let poll: Int32
    private static let listenerToken: UInt64 = 0, lifelineToken: UInt64 = 1
    /// How many more times to wait before the listeners are tried without waiting; 0 while each such try finds a
    /// client. If clients arrive faster than they are served, epoll_wait would be a wasted system call; otherwise the
    /// try would be.
    private let untilLook = Atomic(0)
    private static let waitsBetweenLooks = 8
    /// True if this worker may have been woken for a client of another listener than the one it accepted from.
    private let owesLook = Atomic(false)
    private let turns = Atomic(0)
    /// Clients accepted since the lifeline was last checked.
    private let unwatched = Atomic(0)
    private static let clientsBetweenLooks = 128

    /// Opens an epoll instance for this worker alone. On a shared one, each client would wake all workers.
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

    /// Returns the next client, waiting if necessary; nil when the worker should stop accepting. Blocks: must not run
    /// on an event loop's thread.
    ///
    /// EPOLLEXCLUSIVE wakes one worker only: it must accept, or check the listeners again before it stops.
    ///
    /// - Throws: `ForkingError.Code.system` if waiting or accepting fails permanently. Shortages are waited out.
    package func next() throws(ForkingError) -> Client? { try next(nil) }

    /// - Parameter lingering: the connections that this worker's only thread has served and is closing, while it waits.
    func next(_ lingering: Lingering?) throws(ForkingError) -> Client? {
        slot.fields.takesFromQueue.store(true, ordering: .relaxed)
        while !slot.isDraining {
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
                if token == Self.lifelineToken { endIfOrphaned() }
                unwatched.store(0, ordering: .relaxed)
                if listeners.count > 1 { owesLook.store(true, ordering: .relaxed) }
                if let client = try take() { return client }
                // Another worker accepted the client, or the listener was shut down.
                if token == Self.listenerToken, listeners.contains(where: forkcore_is_shut_down) {
                    throw .system(call: "accept", .invalidArgument)
                }
            } catch let error where error.errno == .invalidArgument {
                // The listener was shut down: by the parent, as it stops, or by another worker. In the second case the
                // parent repairs it.
                if !slot.isDraining { forkcore_event_add(wakeEvent, 1) }
                lookAtLifeline(atMost: Admission.pause)
            } catch let error where error.errno.map(Errno.shortages.contains) == true {
                lingering?.closeAll()
                lookAtLifeline(atMost: Admission.pause)
            }
        }
        // Clients that no other worker would take: one that this worker alone was woken for and, when the whole server
        // stops, those that waited then.
        if owesLook.load(ordering: .relaxed), let client = try? take() { return client }
        return slot.takesLastClients ? LastClients.next(from: lastClients) : nil
    }

    /// Accepts the next client if one is waiting. Each call starts at another listener, so that no listener has
    /// priority.
    ///
    /// - Throws: `ForkingError.Code.system`, also in a shortage.
    package func take() throws(ForkingError) -> Client? {
        // A worker that finds a client each time never waits, and so would not notice that its parent has ended.
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
        if (try? waitUntilReadable(lifeline, atMost: time)) == true { endIfOrphaned() }
    }

    /// Called at the lifeline's end. A parent that wants this worker to drain sets the drain word first. If the word is
    /// not set, the parent has died: a timer then ends this process, because no parent will kill it.
    private func endIfOrphaned() {
        guard slot.askToDrain() == 0 else { return }
        _ = forkcore_end_after(orphanTimeout)
    }
}
