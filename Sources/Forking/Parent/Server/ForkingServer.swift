// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// Serves each connection, or each datagram, in a child process of its own.
///
/// A trap, a crash, an endless loop or a leak in the handler costs the one client it was serving. The parent accepts,
/// forks, and reaps; it is single-threaded, runs no handler, and waits for everything in one place.
///
/// ```swift
/// let server = try ForkingServer(Listener(SocketAddress(parsing: "127.0.0.1:7777"))) { connection in
///     while let line = try connection.readLine() { try connection.write(line) }
/// }
/// try server.serve()
/// ```
public final class ForkingServer {
    /// Where clients come to first of all; with port 0 asked for, the port that the kernel chose.
    public let address: SocketAddress
    /// Where clients come to: `address`, and what `add(_:)` has added. Empty once the server takes no more.
    public var addresses: [SocketAddress] { listeners.addresses }
    /// As it was given; it cannot change any more.
    public let configuration: Configuration
    /// Set them before serving.
    public var hooks: Hooks
    /// Stops the server from any thread; it may outlive it.
    public var stopSwitch: StopSwitch { loop.stopSwitch }
    /// The children. Forking others in it, signalling them or looking at them is allowed; they count towards the limit.
    public let children: ChildTable

    // The state of the loop. It is in several files: this one waits, +Clients and +Lending fork, +Stopping begins and
    // ends, +Status tells. What it shares with a pool is in LoopServer.
    let loop: ServerLoop
    let service: Service
    /// Those of the configuration, put together once: what the parent does for each client, its children have copies
    /// of.
    let childOptions: ChildOptions
    /// Where it runs.
    let stack = ParentStack()
    var listeners = ListenerSet()
    var held = HeldClients()
    var heldDatagram: Datagram?
    /// Whether who waits at a stop is still to be served: not before the server has begun to serve, nor in a loop of
    /// one's own.
    var takesWaiting = false
    var admission = Admission()
    var hasTakenClient = false
    var clientsUntilTrim = 16
    var isShort = false
    let idleSince: ParentCell<Instant>
    /// Of a server that gives its listeners to programs.
    var lent = LentListeners()
    /// Those that stop it while it serves.
    private var stopSignals: Set<Signal> = []
    /// Of a server of datagrams, until it has served.
    var replies: Replies?

    /// A server of connections.
    ///
    /// - Parameters:
    ///   - listener: where clients come to; the server's from now on.
    ///   - configuration: how it behaves.
    ///   - hooks: what runs besides; `hooks` can be set later, too.
    ///   - handler: runs in the child, which ends when it returns; status 0, or 1 when it throws.
    /// - Throws: `ForkingError.Code.invalid` for a configuration that cannot be, or a listener of datagrams; `.system`.
    public convenience init(
        _ listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: Hooks = Hooks(),
        handler: @escaping (inout Connection) throws -> Void
    ) throws(ForkingError) {
        guard !listener.isDatagram else {
            throw .invalid("the listener on \(listener.address) is for datagrams: use init(datagrams:)")
        }
        try self.init(listener, configuration, hooks, .connections(handler))
    }

    /// A server of datagrams. Children have no part in the server's socket: what they answer, the parent sends while it
    /// serves, or collects its children.
    ///
    /// - Parameters:
    ///   - listener: where clients come to; the server's from now on.
    ///   - configuration: how it behaves.
    ///   - hooks: what runs besides; `hooks` can be set later, too.
    ///   - handler: runs in the child, which ends when it returns; status 0, or 1 when it throws.
    /// - Throws: `ForkingError.Code.invalid` for a configuration that cannot be, or a listener of connections;
    ///   `.system`.
    public convenience init(
        datagrams listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: Hooks = Hooks(), handler: @escaping (Datagram) throws -> Void
    ) throws(ForkingError) {
        guard listener.isDatagram else {
            throw .invalid("the listener on \(listener.address) is not for datagrams: use init(_:)")
        }
        try self.init(listener, configuration, hooks, .datagrams(handler))
    }

    /// A server that executes a program for each connection, on its descriptors 0 and 1; 2 is inherited. See
    /// `ChildTable.spawn`.
    ///
    /// - Parameters:
    ///   - listener: where clients come to; the server's from now on.
    ///   - configuration: how it behaves.
    ///   - hooks: what runs besides; `hooks` can be set later, too.
    ///   - program: says which, and with which variables. Runs in the parent, for each client that was accepted,
    ///     again for one that had to wait for descriptors; when it throws, the client is sent away.
    /// - Throws: `ForkingError.Code.invalid` for a configuration that cannot be, a listener of datagrams, or fewer
    ///   descriptors than children, each of which takes one here; `.system`.
    public convenience init(
        programs listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: Hooks = Hooks(),
        program: @escaping (borrowing Connection) throws(ForkingError) -> Program
    ) throws(ForkingError) {
        guard !listener.isDatagram else {
            throw .invalid("the listener on \(listener.address) is for datagrams, and programs are given connections")
        }
        try configuration.checkDescriptors()
        try self.init(listener, configuration, hooks, .programs(program))
    }

    /// A server that executes a program for a listener: on its descriptors 0 and 1 it has the listening socket, or that
    /// for datagrams, which it serves until it ends; then the server waits for the next client or datagram and executes
    /// another. It is what inetd(8) does with `wait`, and for programs that serve several clients, or datagrams, in one
    /// process.
    ///
    /// Such a child's peer is the listener's address. After a program that failed the server waits before the next one,
    /// longer each time. At a stop a program may go on for `Configuration.drainTimeout`, and takes who comes meanwhile.
    ///
    /// - Parameters:
    ///   - listener: where clients come to; the server's from now on.
    ///   - configuration: how it behaves.
    ///   - hooks: what runs besides; `hooks` can be set later, too.
    ///   - program: says which, for a listener's address. Runs in the parent.
    /// - Throws: `ForkingError.Code.invalid` for a configuration that cannot be; `.system`.
    public convenience init(
        lending listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: Hooks = Hooks(),
        program: @escaping (SocketAddress) throws(ForkingError) -> Program
    ) throws(ForkingError) {
        try configuration.checkDescriptors()
        try self.init(listener, configuration, hooks, .lending(program))
    }

    private init(
        _ listener: consuming Listener, _ configuration: Configuration, _ hooks: Hooks, _ service: Service
    ) throws(ForkingError) {
        self.configuration = try configuration.checked()
        childOptions = configuration.child
        self.hooks = hooks
        self.service = service
        address = listener.address
        idleSince = try ParentCell(.now)
        // What marks the end of a forked child is lost when it executes a program.
        let reaping: ChildTable.Reaping = service.isOfPrograms ? .pidfd : .signal
        children = try ChildTable(maxChildren: configuration.maxChildren, reaping: reaping)
        loop = try ServerLoop(
            children,
            Lifecycle(
                drainTimeout: configuration.drainTimeout, killTimeout: configuration.child.killTimeout,
                waitsForChildren: configuration.waitsForChildren))
        try take(listener)
        children.noteExit = { [weak self] in self?.noteEnd(of: $0) }
        children.noteTrouble = { [weak self] in self?.tell(.trouble($0)) }
        if configuration.reapsStrangers { try children.reapStrangers() }
    }

    deinit { stack.close() }

    /// Serves on one more listener. Clients of several are taken in turn. Parent, before serving.
    ///
    /// - Throws: `ForkingError.Code.invalid` for a listener of datagrams in a server of connections, or the other way
    ///   round, and while it serves; `.system`.
    public func add(_ listener: consuming Listener) throws(ForkingError) {
        try loop.requireNotRunning()
        let takesDatagrams = if case .datagrams = service { true } else { false }
        guard service.isLending || listener.isDatagram == takesDatagrams else {
            throw .invalid(
                "the listener on \(listener.address) is \(listener.isDatagram ? "" : "not ")for datagrams, and this server's "
                    + "others are\(takesDatagrams ? "" : " not"): make a server for each kind")
        }
        try take(listener)
    }

    private func take(_ listener: consuming Listener) throws(ForkingError) {
        if listener.isDatagram, !service.isLending {
            if replies == nil { replies = try Replies(for: children) }
            try replies?.add(listener)
        }
        try listeners.add(listener, isLent: service.isLending)
    }

    // MARK: Serving

    /// Serves until the server was stopped; then nothing of it is left alive. Clients that have connected before that
    /// are served while it drains, in their order, unless the socket is one that somebody else goes on with.
    ///
    /// Parent: blocks the calling thread. Meanwhile SIGPIPE is ignored, `Configuration.stopSignals`, SIGHUP, SIGQUIT,
    /// SIGUSR2 and the signals of `hooks` are taken as events, a service manager is told how it does, and who asks on
    /// `Configuration.control` is told the status.
    ///
    /// - Throws: `ForkingError.Code.threads` if this process has more than one thread; `.invalid` if the server was
    ///   stopped before; `.system` if waiting or accepting fails for good, after the children were killed; either if
    ///   the control socket cannot be made; `.notEnded` if the server has stopped, but some children could not be
    ///   ended.
    public func serve() throws(ForkingError) {
        try begin(taking: signalsToTake(), control: configuration.control)
        defer {
            loop.end()
            replies = nil
        }
        try InheritedSockets.closeUnclaimed()
        do { try hooks.beforeFork(self) } catch { throw .invalid("the server could not be prepared: \(error)") }
        tell(.serving(addresses))
        listeners.takeOver()
        loop.noteServing()
        do throws(ForkingError) {
            try onOwnStack { () throws(ForkingError) in
                try turn()
                takesWaiting = true
                while loop.life.state != .stopped { try turn() }
            }
        } catch {
            fail()
            throw error
        }
        try loop.checkAbandoned()
    }

    /// Waits for one client, at most for `Configuration.idleTimeout`, and forks a child for it; children that end
    /// meanwhile are reaped. For a loop of your own, which also polls `children.descriptor` and then collects;
    /// `close()` ends what it began. Signals are not taken here, but keep what they do.
    ///
    /// - Returns: whether a client was taken; false after a time-out or a stop.
    /// - Throws: `ForkingError.Code.threads`; `.invalid` if the server was stopped before, or serves; `.system` if
    ///   waiting or accepting fails for good.
    @discardableResult
    public func serveOne() throws(ForkingError) -> Bool {
        try begin(taking: nil)
        defer { loop.end() }
        hasTakenClient = false
        let started = idleSince.value
        try onOwnStack { () throws(ForkingError) in
            while loop.life.state == .serving, !hasTakenClient {
                if let limit = configuration.idleTimeout, started + limit <= .now { return }
                try turn()
            }
        }
        return hasTakenClient
    }

    /// Asks the server to stop. From a hook or the parent's code; other threads use `stopSwitch`.
    public func stop(_ step: StopStep = .drain) { stopSwitch.stop(step) }

    /// Takes no more clients, and ends the children as a stop does: drain, terminate, kill. Parent.
    ///
    /// - Throws: `ForkingError.Code.invalid` from a hook, which can only ask to `stop()`; `.system` if waiting fails.
    public func close() throws(ForkingError) {
        try onOwnStack { () throws(ForkingError) in try loop.close(turn) }
        replies = nil
    }

    // MARK: The loop

    private func onOwnStack(_ body: () throws(ForkingError) -> Void) throws(ForkingError) {
        children.requireParent()
        try stack.run(body)
    }

    /// One turn: wait, then signals, exits, time, who asks for the status, and last a new client.
    private func turn() throws(ForkingError) {
        hooks.onTurn(self)
        loop.report(reportState, { reportLine })
        let ready = try wait()
        if ready.contains(.signal) { takeSignals() }
        if ready.contains(.stop), let step = stopSwitch.take() { advance(to: step) }
        if ready.contains(.children) { collect() }
        if let event = loop.lookAfterUpgrade(ready) { note(event) }
        fireTimers()
        if ready.contains(.control) { loop.answer(from: self) }
        if ready.contains(.work) || isHolding, canAdmit { try takeClient() }
    }

    /// A closure that holds something costs a count of references, in memory that children have a copy of: so the
    /// server's is not called here, and the table's only where somebody has set one.
    private func collect() {
        children.collect(telling: {
            noteEnd(of: $0)
            if children.isObserved { children.onExit($0) }
        })
    }

    /// Waits for something to do. While the table is full, or something is short, the listeners are not among what is
    /// waited for: clients wait in the kernel's queue, at no cost.
    private func wait() throws(ForkingError) -> ServerLoop.Ready {
        let canAdmit = canAdmit
        return try loop.wait(
            for: canAdmit ? listeners.polled : -1,
            until: earlier(earlier(idleDeadline, admission.shortage.until), lent.next),
            isBusy: isHolding && canAdmit, isHolding: isHolding)
    }

    /// While it drains, the server still has children made for those whom it holds.
    private var canAdmit: Bool {
        switch loop.life.state {
        case .serving: break
        case .stopping(.drain, _): guard isHolding else { return false }
        default: return false
        }
        return admission.decide(isFull: children.isFull) == .admit
    }

    /// Whether somebody has been accepted, or received from, who has no child yet.
    var isHolding: Bool { !held.isEmpty || heldDatagram != nil }

    /// SIGUSR2 too, unless a hook takes it, or a thread would.
    private func signalsToTake() throws(ForkingError) -> Set<Signal> {
        let hooked = hooks.signals.keys
        stopSignals = configuration.stopSignals
        if !stopSignals.isEmpty { stopSignals.formUnion(ServerLoop.lastResort([.hangup, .quit], hooks: hooked)) }
        let isFree = !hooked.contains(.userDefinedTwo) && !stopSignals.contains(.userDefinedTwo)
        let own: Set<Signal> = isFree && ThreadMasks.firstThatTakes(.userDefinedTwo) == nil ? [.userDefinedTwo] : []
        return try ServerLoop.signals(stopping: stopSignals, own: own, hooks: hooked)
    }

    private func takeSignals() {
        for signal in loop.takeSignals() {
            if stopSignals.contains(signal) {
                advance(to: loop.life.nextStep)
            } else if let hook = hooks.signals[signal] {
                hook(self)
            } else {
                upgrade()
            }
        }
    }

    /// Tells of a child's end.
    func noteEnd(of exit: ChildExit) {
        admission.noteEnd()
        replies?.end(exit.pid)
        if service.isLending {
            var generator = SystemRandomNumberGenerator()
            let failed = !exit.status.isSuccess && exit.reason == .own
            lent.end(exit.pid, failed: failed, at: .now, using: &generator)
        }
        tell(.ended(exit))
    }

    private func fireTimers() {
        let now = Instant.now
        admission.fireTimers(now)
        takeBack(now)
        if let deadline = idleDeadline, deadline <= now {
            idleSince.value = now
            children.collect()
            hooks.onIdle(self)
        }
        switch loop.fireTimers(now, isHolding: isHolding) {
        case .stop(let stop): carryOut(stop)
        case .abandonChildren: tell(.abandoned(loop.abandoned))
        case nil: break
        }
    }

    private var idleDeadline: Instant? {
        loop.life.state == .serving ? configuration.idleTimeout.map { idleSince.value + $0 } : nil
    }
}
