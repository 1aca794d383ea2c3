// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// A pool of worker processes that serve on shared listeners, kept at full strength.
///
/// A trap, a crash or an endless loop costs the requests that one worker was serving; it is replaced. The parent runs
/// no handler, accepts nobody but those who wait as it stops, and is single-threaded; in a worker everything is
/// allowed: threads, tasks, event loops.
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
/// Here the closure serves a connection. With `PreforkServer(workers:)` it is the whole of a worker.
///
/// While it serves, SIGTERM and SIGINT drain, SIGHUP replaces all workers one by one, SIGTTIN and SIGTTOU add and take
/// one, and SIGUSR2 starts the program anew on the same sockets. See docs/SIGNALS.md.
public final class PreforkServer {
    /// As it was given; it cannot change any more.
    public let configuration: Configuration
    /// Set them before serving.
    public var hooks: Hooks
    /// Stops the server from any thread; it may outlive it.
    public var stopSwitch: StopSwitch { loop.stopSwitch }
    /// The workers, and whatever else is forked in it.
    public var children: ChildTable { loop.children }
    /// Where clients come to.
    public var addresses: [SocketAddress] { listeners.map(\.address) }

    // The state of the loop. It is in several files: this one waits, +Workers forks and does what `policy` decides,
    // +Stopping ends, +Status tells. What it shares with a `ForkingServer` is in LoopServer.
    let loop: ServerLoop
    let service: Service
    /// Where it runs.
    let stack = ParentStack()
    /// Workers wake the parent by it.
    private(set) var wakeEvent: WakeEvent
    var listeners: [SharedListener] = []
    var lastClients: LastClients
    /// Until it is tried again to pass on those of them for whom there was no room.
    var passOnPause = Pause()
    var policy: PoolPolicy
    /// For each of the policy's workers.
    var links: [ProcessID: WorkerLink] = [:]
    /// Those that have ended, and cannot be reaped.
    var held: Set<ProcessID> = []
    private var stopSignals: Set<Signal> = []
    /// What workers do not heed, as it is meant for the parent.
    private(set) var heedless: SignalSet = []
    /// Why it stops, if not because it was asked to.
    var failure: ForkingError?

    /// A pool whose workers serve one connection after the other.
    ///
    /// - Parameters:
    ///   - listener: where clients come to; the server's from now on.
    ///   - configuration: how it behaves.
    ///   - hooks: what runs besides; `hooks` can be set later, too.
    ///   - handler: runs in a worker for each connection, which is closed when it returns or throws. One that serves
    ///     several requests on a connection looks at `Worker.isDraining` between them.
    /// - Throws: `ForkingError.Code.invalid` for a configuration that cannot be, or a listener of datagrams; `.system`.
    public convenience init(
        _ listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: Hooks = Hooks(), handler: @escaping (inout Connection, Worker) throws -> Void
    ) throws(ForkingError) {
        try self.init(listener, configuration, hooks, .connections(handler))
    }

    /// A pool whose workers serve on the listeners by themselves: with an event loop, with threads.
    ///
    /// - Parameters:
    ///   - listener: where clients come to; the server's from now on.
    ///   - configuration: how it behaves.
    ///   - hooks: what runs besides; `hooks` can be set later, too.
    ///   - body: runs in a worker. It says `Worker.notifyReady()` once it serves, and returns when it was asked to
    ///     drain
    ///     and has done so; the process then ends with status 0, or with 1 if it throws.
    /// - Throws: `ForkingError.Code.invalid` for a configuration that cannot be, or a listener of datagrams; `.system`.
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
        // Each worker may be there twice: it drains, and its successor serves.
        loop = try ServerLoop(
            ChildTable(maxChildren: 2 * Configuration.ceiling),
            Lifecycle(drainTimeout: configuration.drainTimeout, killTimeout: configuration.child.killTimeout))
        try add(listener)
        children.noteExit = { [weak self] in self?.noteEnd(of: $0) }
        children.noteTrouble = { [weak self] in self?.note($0) }
        if configuration.reapsStrangers { try children.reapStrangers() }
    }

    deinit { stack.close() }

    /// Has the workers serve on one more listener. Parent, before serving.
    ///
    /// - Throws: `ForkingError.Code.invalid` for a listener of datagrams, or while it serves.
    public func add(_ listener: consuming Listener) throws(ForkingError) {
        try loop.requireNotRunning()
        guard !listener.isDatagram else {
            throw .invalid("the listener on \(listener.address) is for datagrams, and workers accept connections")
        }
        // What a listener is set to, its connections are; but for those of Unix sockets.
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

    /// Serves until the server was stopped; then nothing of it is left alive.
    ///
    /// Parent: blocks the calling thread. Meanwhile SIGPIPE is ignored, and `Configuration.stopSignals`, SIGHUP,
    /// SIGTTIN, SIGTTOU, SIGUSR2 and the signals of `hooks` are taken as events.
    ///
    /// - Throws: `ForkingError.Code.threads` if this process has more than one thread; `.invalid` if the server was
    ///   stopped before, or if `hooks.beforeFork` throws; `.crashLoop` if it gives up; `.system` if waiting fails for
    ///   good, after the workers were killed; `.notEnded` if the server has stopped, but some workers could not be
    ///   ended.
    public func serve() throws(ForkingError) {
        try configuration.childOptions.tryConfinement()
        try children.contain(configuration.childOptions)
        try loop.begin(taking: signalsToTake(), control: configuration.control)
        defer { loop.end() }
        do {
            try hooks.beforeFork(self)
        } catch {
            throw .invalid("the server could not be prepared: \(error)")
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

    /// Asks the server to stop. From a hook or the parent's code; other threads use `stopSwitch`.
    public func stop(_ step: StopStep = .drain) { stopSwitch.stop(step) }

    // MARK: The loop

    /// One turn: what is to be done for the workers, then wait, signals, exits, time.
    private func turn() throws(ForkingError) {
        if loop.life.state == .serving { keepListening() }
        if loop.life.state == .serving { reconcile(.now) }  // unless nobody can reach it any more
        loop.report(reportState, { reportLine })
        let ready = try loop.wait(
            for: wakeEvent.descriptor,
            until: earlier(policy.nextLook, earlier(wakeEvent.pause.until, passOnPause.until)),
            isBusy: false)
        if ready.contains(.signal) { takeSignals() }
        if ready.contains(.stop), let step = stopSwitch.take() { advance(to: step) }
        if ready.contains(.children) { children.collect() }
        wakeEvent.fireTimers(.now)
        if ready.contains(.work) { wakeEvent.take(.now) }
        if let event = loop.lookAfterUpgrade(ready) { note(event) }
        if passOnPause.isOver(at: .now) { passOnLastClients(.now) }
        switch loop.fireTimers(.now) {
        case .stop(let stop): carryOut(stop)
        case .abandonChildren: tell(.abandoned(loop.abandoned))
        case nil: break
        }
        if ready.contains(.control) { loop.answer(from: self) }
    }

    private func signalsToTake() throws(ForkingError) -> Set<Signal> {
        stopSignals = configuration.stopSignals
        if !stopSignals.isEmpty { stopSignals.formUnion(ServerLoop.lastResort([.quit], hooks: hooks.signals.keys)) }
        let taken = try ServerLoop.signals(
            stopping: stopSignals, own: Self.ownSignals, hooks: hooks.signals.keys)
        heedless = SignalSet(taken.union([.userDefinedOne]).subtracting([.terminate]))
        return taken
    }

    private func takeSignals() {
        for signal in loop.takeSignals() {
            if stopSignals.contains(signal) {
                advance(to: loop.life.nextStep)
            } else if let hook = hooks.signals[signal] {
                hook(self)
            } else if loop.life.state == .serving {
                switch signal {
                case .hangup: replaceAll()
                case .ttyInput: carryOut(policy.resize { $0.add() }, .now)
                case .ttyOutput: carryOut(policy.resize { $0.remove() }, .now)
                default: upgrade()
                }
            }
        }
    }
}
