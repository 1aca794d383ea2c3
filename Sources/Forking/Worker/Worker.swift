// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Synchronization
public import SystemPackage

/// A worker process of a `PreforkServer`, as its body sees it. Worker: everything here, from any of its threads.
///
/// A body serves on `listeners` with whatever it likes, says when it is `notifyReady()`, and returns once it was asked
/// to drain and has served what it had begun.
public final class Worker: Sendable {
    /// Its place in the pool, from 0 on: lower than the most workers there can be at once. Its successor has another.
    public let number: Int
    /// Listening sockets, non-blocking, that all workers share. They stay open until the process ends.
    public let listeners: [FileDescriptor]
    /// Where they are bound, in the same order.
    public let addresses: [SocketAddress]
    /// Readable, at its end, as soon as the worker should drain, also when the parent has gone. Not to be read from.
    public let drainDescriptor: FileDescriptor
    /// How long it may be silent: see `sendHeartbeat()`. Nil: as long as it likes.
    public let heartbeatTimeout: Duration?

    private let slot: ScoreboardSlot
    private let wakeEvent: Int32
    private let maxRequests: UInt64
    /// The clients that wait at the listeners, for this worker and all others.
    package let queue: AcceptQueue

    init(_ setup: WorkerSetup) throws(ForkingError) {
        number = setup.number
        listeners = setup.listeners.map { FileDescriptor(rawValue: $0) }
        addresses = setup.addresses
        drainDescriptor = FileDescriptor(rawValue: setup.lifeline)
        heartbeatTimeout = setup.heartbeatTimeout
        slot = setup.slot
        wakeEvent = setup.wakeEvent
        maxRequests = setup.maxRequests
        queue = try AcceptQueue(setup)
        // It dies with its parent whatever rights it gives up. Where the kernel has no such signal, the queue sees the
        // end.
        _ = forkcore_tie(setup.tie)
        try check(forkcore_drain_on_term(slot.drainWord, setup.lifeline, setup.wakeEvent), "sigaction")
    }

    // MARK: What it says

    /// Tells the parent that this worker serves now. A worker that says so in no time that
    /// `PreforkServer.Configuration.startTimeout` allows is ended.
    public func notifyReady() {
        sendHeartbeat()
        slot.fields.since.store(Instant.now.nanoseconds, ordering: .relaxed)
        slot.fields.isReady.store(true, ordering: .releasing)
        tell()
    }

    /// Says that this worker's loop turns. With `PreforkServer.Configuration.heartbeatTimeout`, one that is silent for
    /// longer is taken for stuck.
    public func sendHeartbeat() { slot.fields.beat.store(Instant.now.nanoseconds, ordering: .relaxed) }

    /// A request that is being served, for `endRequest(_:)`.
    public struct RequestID: Sendable {
        fileprivate let number: Int
    }

    /// Counts a request that begins: the worker is busy until each that has begun has ended.
    ///
    /// - Parameters:
    ///   - peer: whose request it is.
    ///   - isTimed: whether `PreforkServer.Configuration.requestTimeout` is for it.
    /// - Returns: what to end it by.
    public func beginRequest(from peer: SocketAddress? = nil, isTimed: Bool = true) -> RequestID {
        if let peer { slot.fields.peer = peer }
        let now = Instant.now
        slot.fields.since.store(now.nanoseconds, ordering: .relaxed)
        slot.fields.active.add(1, ordering: .relaxed)
        let (_, count) = slot.fields.requests.add(1, ordering: .relaxed)
        if count == maxRequests { retire() }
        return RequestID(number: isTimed ? slot.noteStart(now) : -1)
    }

    /// Says that a request has ended: once for each that has begun. Those that a handler has not ended when it returns,
    /// end then.
    public func endRequest(_ request: RequestID) {
        slot.forgetStart(request.number)
        slot.fields.since.store(Instant.now.nanoseconds, ordering: .relaxed)
        slot.fields.active.subtract(1, ordering: .relaxed)
    }

    /// Asks for another worker in its place. It goes on until that one is ready; then it is asked to drain.
    public func retire() {
        slot.fields.wantsToRetire.store(true, ordering: .relaxed)
        tell()
    }

    private func tell() { forkcore_event_add(wakeEvent, 1) }

    // MARK: What it is told

    /// Whether to take no more, finish what has begun, and return. Costs no system call.
    public var isDraining: Bool { slot.isDraining }

    // MARK: Blocking loops

    /// Waits for the next client; nil once the worker should drain, and has served those who waited when the whole
    /// server stopped. accept4(2), epoll_wait(2).
    ///
    /// For one thread, which serves the client before it comes back; what it counts as a request is its own to say.
    ///
    /// - Throws: `ForkingError.Code.system` if waiting or accepting fails for good; shortages are waited out.
    public func accept() throws(ForkingError) -> Connection? { try accept(nil) }

    private func accept(_ lingering: Lingering?) throws(ForkingError) -> Connection? {
        slot.fields.hasConnection.store(false, ordering: .relaxed)
        // Who waits here is not silent, however long no client comes.
        if heartbeatTimeout != nil { slot.fields.beat.store(.max, ordering: .relaxed) }
        guard let (descriptor, peer) = try queue.next(lingering) else { return nil }
        slot.fields.hasConnection.store(true, ordering: .relaxed)
        if heartbeatTimeout != nil { sendHeartbeat() }
        var connection = Connection(descriptor, peer: peer)
        connection.mayHoldRights = peer.isUnix
        return connection
    }

    /// Serves one client after the other until it should drain.
    func serve(
        _ configuration: PreforkServer.Configuration, _ hooks: PreforkServer.Hooks,
        _ handler: (inout Connection, Worker) throws -> Void
    ) throws(ForkingError) {
        let lingering = Lingering()
        notifyReady()
        while var connection = try accept(lingering) {
            let peer = connection.peer
            let request = configuration.requestUnit == .connection ? beginRequest(from: peer) : nil
            do {
                if let timeout = configuration.ioTimeout, peer.isUnix { try connection.setTimeout(timeout) }
                try handler(&connection, self)
            } catch {
                try? hooks.onError(error, peer)
            }
            lingering.add(connection)
            if let request { endRequest(request) }
            endAllRequests()
        }
        lingering.finish()
    }

    /// Whatever was begun on the one connection there is has ended, whether the handler has said so or not.
    private func endAllRequests() {
        guard slot.fields.active.exchange(0, ordering: .relaxed) != 0 else { return }
        slot.fields.since.store(Instant.now.nanoseconds, ordering: .relaxed)
        slot.forgetStart(nil)
    }
}

/// What a worker is made of; put together in the parent, before the fork.
struct WorkerSetup {
    var number: Int
    var listeners: [Int32]
    var addresses: [SocketAddress]
    var slot: ScoreboardSlot
    var lifeline: Int32
    var tie: Int32
    /// Where those are passed on who waited as the whole server stopped.
    var lastClients: Int32
    /// An eventfd(2) of its own, of which nobody but the parent hears.
    var wakeEvent: Int32
    /// How long it may live once its parent has gone, in nanoseconds.
    var orphanTimeout: Int64
    var maxRequests: UInt64
    var heartbeatTimeout: Duration?
}
