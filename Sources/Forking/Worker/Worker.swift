// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Synchronization
public import SystemPackage

/// The parts of a worker, assembled in the parent before the fork.
struct WorkerSetup {
    var number: Int
    var listeners: [Int32]
    var addresses: [SocketAddress]
    var slot: ScoreboardSlot
    var lifeline: Int32
    var tie: Int32
    /// The socket on which the parent passes the clients that waited when the whole server stopped.
    var lastClients: Int32
    /// This worker's own eventfd(2), by which it wakes the parent.
    var wakeEvent: Int32
    /// How long the worker may live after its parent has ended, in nanoseconds.
    var orphanTimeout: Int64
    var maxRequests: UInt64
    var heartbeatTimeout: Duration?
}

/// The start of a worker, after the fork. It has no access to its parent's stack. It may do whatever a process may:
/// start threads, tasks, event loops.
final class WorkerStart {
    private let server: PreforkServer
    private let setup: WorkerSetup

    init(_ server: PreforkServer, _ setup: WorkerSetup) {
        self.server = server
        self.setup = setup
    }

    /// Runs the body and prints its error. Returns the exit status.
    func run() -> Int32 {
        do {
            let worker = try Worker(setup)
            if server.configuration.printsStuckBacktrace { forkcore_tell_where_on_abort() }
            switch server.service {
            case .connections(let handler): try worker.serve(server.configuration, server.hooks, handler)
            case .body(let body): try body(worker)
            }
            return 0
        } catch {
            Lines.tell("worker \(forkcore_process()): \(error)")
            return 1
        }
    }
}

/// A worker process of a `PreforkServer`, as its body sees it. Worker: all members, from any thread.
///
/// A body accepts from `listeners` in any way it likes, calls `notifyReady()` when it can serve, and returns after it
/// was asked to drain and has finished what it had begun.
public final class Worker: Sendable {
    /// The worker's number in the pool, from 0: less than the maximum number of workers at one time. Its replacement
    /// has another number.
    public let number: Int
    /// Non-blocking listening sockets that all workers share. They stay open until the process ends.
    public let listeners: [FileDescriptor]
    /// The addresses of `listeners`, in the same order.
    public let addresses: [SocketAddress]
    /// Reaches end of file, and so becomes readable, when the worker should drain, also because its parent has died. Do
    /// not read from it.
    public let drainDescriptor: FileDescriptor
    /// The longest time between two calls of `sendHeartbeat()`; nil for no limit.
    public let heartbeatTimeout: Duration?

    private let slot: ScoreboardSlot
    private let wakeEvent: Int32
    private let maxRequests: UInt64
    /// The clients that wait at the listeners, for this and all other workers.
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
        // The worker dies with its parent, whatever privileges it gives up later. On kernels without that signal, the
        // queue notices the parent's end.
        _ = forkcore_tie(setup.tie)
        try check(forkcore_drain_on_term(slot.drainWord, setup.lifeline, setup.wakeEvent), "sigaction")
    }

    // MARK: Reports to the parent

    /// Tells the parent that this worker can serve. The parent kills a worker that does not call this within
    /// `PreforkServer.Configuration.startTimeout`.
    public func notifyReady() {
        sendHeartbeat()
        slot.fields.since.store(Instant.now.nanoseconds, ordering: .relaxed)
        slot.fields.isReady.store(true, ordering: .releasing)
        forkcore_event_add(wakeEvent, 1)
    }

    /// Tells the parent that this worker's loop runs. If `PreforkServer.Configuration.heartbeatTimeout` is set, a
    /// worker that does not call this for longer counts as stuck. Makes no system call.
    public func sendHeartbeat() { slot.fields.beat.store(Instant.now.nanoseconds, ordering: .relaxed) }

    /// A request that is being served, as `endRequest(_:)` takes it.
    public struct RequestID: Sendable {
        fileprivate let number: Int
    }

    /// Counts the start of a request. The worker is busy until each request that has begun has ended.
    ///
    /// - Parameters:
    ///   - peer: the client's address, for `status`.
    ///   - isTimed: whether `PreforkServer.Configuration.requestTimeout` applies to it.
    /// - Returns: the argument for `endRequest(_:)`.
    public func beginRequest(from peer: SocketAddress? = nil, isTimed: Bool = true) -> RequestID {
        if let peer { slot.fields.peer = peer }
        let now = Instant.now
        slot.fields.since.store(now.nanoseconds, ordering: .relaxed)
        slot.fields.active.add(1, ordering: .relaxed)
        let (_, count) = slot.fields.requests.add(1, ordering: .relaxed)
        if count == maxRequests { retire() }
        return RequestID(number: isTimed ? slot.noteStart(now) : -1)
    }

    /// Counts the end of a request. Call this once for each that has begun. Requests that a connection's handler has
    /// not ended end when it returns.
    public func endRequest(_ request: RequestID) {
        slot.forgetStart(request.number)
        slot.fields.since.store(Instant.now.nanoseconds, ordering: .relaxed)
        slot.fields.active.subtract(1, ordering: .relaxed)
    }

    /// Asks the parent to replace this worker. It continues until its replacement is ready, and is then asked to drain.
    public func retire() {
        slot.fields.wantsToRetire.store(true, ordering: .relaxed)
        forkcore_event_add(wakeEvent, 1)
    }

    // MARK: Requests from the parent

    /// Whether the worker should accept no more, finish what it has begun, and return. Makes no system call.
    public var isDraining: Bool { slot.isDraining }

    // MARK: Blocking loops

    /// Waits for the next client and accepts it. Returns nil when the worker should drain and, if the whole server
    /// stops, the clients that waited then have been served. accept4(2), epoll_wait(2).
    ///
    /// For a worker with one thread, which serves each client before it calls this again. The caller decides what
    /// counts as a request.
    ///
    /// - Throws: `ForkingError.Code.system` if waiting or accepting fails permanently. Shortages are waited out.
    public func accept() throws(ForkingError) -> Connection? { try accept(nil) }

    private func accept(_ lingering: Lingering?) throws(ForkingError) -> Connection? {
        slot.fields.hasConnection.store(false, ordering: .relaxed)
        // A worker that waits for clients is not stuck, however long none comes.
        if heartbeatTimeout != nil { slot.fields.beat.store(.max, ordering: .relaxed) }
        guard let (descriptor, peer) = try queue.next(lingering) else { return nil }
        slot.fields.hasConnection.store(true, ordering: .relaxed)
        if heartbeatTimeout != nil { sendHeartbeat() }
        var connection = Connection(descriptor, peer: peer)
        connection.mayHoldRights = peer.isUnix
        return connection
    }

    /// Serves one client after another until the worker should drain.
    func serve(
        _ configuration: PreforkServer.Configuration, _ hooks: PreforkServer.Hooks,
        _ handler: (inout Connection, Worker) throws -> Void
    ) throws(ForkingError) {
        let lingering = Lingering(inParent: false)
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

    /// Ends all requests of the connection that has just been served, because the handler may not have ended them.
    private func endAllRequests() {
        guard slot.fields.active.exchange(0, ordering: .relaxed) != 0 else { return }
        slot.fields.since.store(Instant.now.nanoseconds, ordering: .relaxed)
        slot.forgetStart(nil)
    }
}
