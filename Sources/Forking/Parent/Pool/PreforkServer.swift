// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// A pool of worker processes that serve on shared listeners. The server replaces workers that end.
///
/// A trap, crash or endless loop affects only the requests that its worker is serving, and the worker is replaced. The
/// parent is single-threaded, runs no handler, and accepts no clients, except those in the listen queues when it stops.
/// A worker may use threads, tasks and event loops.
///
/// ```swift
/// let address = try SocketAddress(parsing: "127.0.0.1:7777")
/// let server = try PreforkServer(Listener(address)) { connection, worker in
///     while let line = try connection.readLine() {
///         try connection.write(line)
///         if worker.isDraining { return }
///     }
/// }
/// try server.serve()
/// ```
///
/// Here the closure serves one connection. With `PreforkServer(workers:)` it is the whole body of a worker.
///
/// While the server serves, SIGTERM and SIGINT drain it, SIGHUP replaces all workers one by one, SIGTTIN and SIGTTOU
/// add and remove one, and SIGUSR2 starts the program anew on the same sockets. See docs/SIGNALS.md.
public final class PreforkServer {
    /// The configuration passed to the initializer.
    public let configuration: Configuration
    /// Callbacks. Set them before serving.
    public var hooks: Hooks
    /// Stops the server from any thread. It may outlive the server.
    public var stopSwitch: StopSwitch { loop.stopSwitch }
    /// The workers, and other children that the parent forks in this table.
    public var children: ChildTable { loop.children }
    /// The addresses of the listeners. Empty once the server has stopped accepting.
    public var addresses: [SocketAddress] { listeners.map(\.address) }

    enum Service {
        case connections((inout Connection, Worker) throws -> Void)
        case body((Worker) throws -> Void)
    }

    /// The parent's resources for a worker.
    struct WorkerLink {
        let slot: ScoreboardSlot
        /// Closing it wakes a worker that was asked to drain.
        var lifeline: ParentDescriptor?
        /// Closing it ends the worker. The kernel closes it when the parent dies.
        let tie: ParentDescriptor
    }

    // The state of the loop, which is in +Loop; +Status reports it. LoopServer has what a `ForkingServer` does, too.
    let loop: ServerLoop
    let service: Service
    /// The stack that the loop runs on.
    let stack = ParentStack()
    /// Workers wake the parent through this.
    var wakeEvent: WakeEvent
    var listeners: [SharedListener] = []
    var lastClients: LastClients
    /// The pause before the parent retries to pass on clients for whom the queue had no room.
    var passOnPause = Pause()
    var policy: PoolPolicy
    /// The parent's resources for each of the policy's workers.
    var links: [ProcessID: WorkerLink] = [:]
    /// Workers that have ended and cannot be reaped.
    var held: Set<ProcessID> = []
    private(set) var stopSignals: Set<Signal> = []
    /// Signals that workers ignore because they are meant for the parent.
    private(set) var heedless: SignalSet = []
    /// The error that made the server stop. Nil if it was asked to stop.
    var failure: ForkingError?

    /// Creates a pool whose workers serve one connection after the other.
    ///
    /// - Parameters:
    ///   - listener: where clients connect. The server owns it from now on.
    ///   - configuration: limits, timeouts and options.
    ///   - hooks: callbacks; the `hooks` property can also be set later.
    ///   - handler: runs in a worker for each connection, which is closed when the handler returns or throws. A handler
    ///     that serves several requests on a connection should check `Worker.isDraining` between them.
    /// - Throws: `ForkingError.Code.invalid` if the configuration is invalid or the listener is for datagrams;
    ///   `.system` if a system call fails.
    public convenience init(
        _ listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: Hooks = Hooks(), handler: @escaping (inout Connection, Worker) throws -> Void
    ) throws(ForkingError) {
        try self.init(listener, configuration, hooks, .connections(handler))
    }

    /// Creates a pool whose workers accept clients from the listeners themselves, with an event loop or threads.
    ///
    /// - Parameters:
    ///   - listener: where clients connect. The server owns it from now on.
    ///   - configuration: limits, timeouts and options.
    ///   - hooks: callbacks; the `hooks` property can also be set later.
    ///   - body: runs in a worker. It calls `Worker.notifyReady()` once it serves. When asked to drain, it finishes its
    ///     requests and returns. The process then exits with status 0, or with 1 if the body throws.
    /// - Throws: `ForkingError.Code.invalid` if the configuration is invalid or the listener is for datagrams;
    ///   `.system` if a system call fails.
    public convenience init(
        workers listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: Hooks = Hooks(), body: @escaping (Worker) throws -> Void
    ) throws(ForkingError) {
        try self.init(listener, configuration, hooks, .body(body))
    }

    private init(
        _ listener: consuming Listener, _ configuration: Configuration, _ hooks: Hooks,
        _ service: Service
    ) throws(ForkingError) {
        self.configuration = try configuration.checked()
        self.hooks = hooks
        self.service = service
        policy = PoolPolicy(configuration.rules, size: configuration.size)
        wakeEvent = try WakeEvent()
        lastClients = try LastClients()
        // A worker and its replacement can be alive at the same time: one drains while the other serves.
        loop = try ServerLoop(
            ChildTable(maxChildren: 2 * Configuration.ceiling),
            Lifecycle(drainTimeout: configuration.drainTimeout, killTimeout: configuration.child.killTimeout))
        try add(listener)
        children.noteExit = { [weak self] in self?.noteEnd(of: $0) }
        children.noteTrouble = { [weak self] in self?.note($0) }
        if configuration.reapsStrangers { try children.reapStrangers() }
    }

    deinit { stack.close() }

    /// Adds a listener, on which all workers serve. Parent, before serving.
    ///
    /// - Throws: `ForkingError.Code.invalid` if the listener is for datagrams, or if the server is serving; `.system`
    ///   if a system call fails.
    public func add(_ listener: consuming Listener) throws(ForkingError) {
        try loop.requireNotRunning()
        guard !listener.isDatagram else {
            throw .invalid("the listener on \(listener.address) is for datagrams, and workers need connections")
        }
        // Connections inherit these options from their listener, except on Unix sockets.
        if !listener.address.isUnix {
            let descriptor = listener.descriptor.rawValue
            if configuration.noDelay { try check(forkcore_set_no_delay(descriptor, true), "setsockopt") }
            if case .connections = service, let timeout = configuration.ioTimeout {
                try check(forkcore_set_timeout(descriptor, timeout.inMicroseconds), "setsockopt")
            }
        }
        listeners.append(SharedListener(listener))
    }

    // MARK: Serving

    /// Serves until the server is stopped and its workers have ended.
    ///
    /// Parent: blocks the calling thread. Meanwhile SIGPIPE is ignored; `Configuration.stopSignals`, SIGHUP, SIGQUIT,
    /// SIGTTIN, SIGTTOU, SIGUSR2 and the signals of `hooks` are taken as events; the service manager is notified of the
    /// server's state; and clients of `Configuration.control` are sent its status.
    ///
    /// - Throws: `ForkingError.Code.threads` if this process has more than one thread; `.invalid` if the server was
    ///   stopped before, or if `hooks.beforeFork` throws; `.crashLoop` if the server gives up after
    ///   `Configuration.maxFailures`; `.system` if waiting fails permanently, after the workers were killed;
    ///   `.notEnded` if the server has stopped, but some workers could not be ended.
    public func serve() throws(ForkingError) {
        try configuration.childOptions.tryConfinement()
        try children.contain(configuration.childOptions)
        try loop.begin(taking: signalsToTake(), control: configuration.control)
        defer { loop.end() }
        do {
            try hooks.beforeFork(self)
        } catch {
            throw .invalid("beforeFork failed: \(error)")
        }
        try InheritedSockets.closeUnclaimed()
        do throws(ForkingError) {
            try stack.run { () throws(ForkingError) in
                while loop.life.state != .stopped { try turn() }
            }
        } catch {
            loop.fail()
            lastClients.close()
            throw error
        }
        lastClients.close()
        if let failure { throw failure }
        try loop.checkAbandoned()
    }

    /// Asks the server to stop. Call it from a hook or the parent's own code; other threads use `stopSwitch`.
    public func stop(_ step: StopStep = .drain) { stopSwitch.stop(step) }

    private func signalsToTake() throws(ForkingError) -> Set<Signal> {
        stopSignals = configuration.stopSignals
        if !stopSignals.isEmpty { stopSignals.formUnion(ServerLoop.lastResort([.quit], hooks: hooks.signals.keys)) }
        let taken = try ServerLoop.signals(
            stopping: stopSignals, own: Self.ownSignals, hooks: hooks.signals.keys)
        heedless = SignalSet(taken.union([.userDefinedOne]).subtracting([.terminate]))
        return taken
    }
}
