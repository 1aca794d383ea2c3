// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// Serves each connection or datagram in a child process of its own.
///
/// A trap, crash, endless loop or leak in the handler affects only the client that the child serves. The parent
/// accepts, forks and reaps on one thread. It runs no handler, and waits for all events in one system call.
///
/// ```swift
/// let server = try ForkingServer(Listener(SocketAddress(parsing: "127.0.0.1:7777"))) { connection in
///     while let line = try connection.readLine() { try connection.write(line) }
/// }
/// try server.serve()
/// ```
public final class ForkingServer {
    /// The address of the first listener. If port 0 was requested, it has the port that the kernel chose.
    public let address: SocketAddress
    /// The addresses of all listeners: `address`, and those that `add(_:)` added. Empty once the server has stopped
    /// accepting.
    public var addresses: [SocketAddress] { listeners.addresses }
    /// The configuration passed to the initializer.
    public let configuration: Configuration
    /// Callbacks. Set them before serving.
    public var hooks: Hooks
    /// Stops the server from any thread. It may outlive the server.
    public var stopSwitch: StopSwitch { loop.stopSwitch }
    /// The server's children. The parent may fork, signal and inspect children in this table. Children that it forks
    /// count towards `Configuration.maxChildren`.
    public let children: ChildTable

    // The state of the loop, which spans several files: this one waits for events, +Clients forks,
    // +Admission judges, +Stopping starts and stops, +Status reports. LoopServer has the code shared with a pool.
    let loop: ServerLoop
    let service: Service
    /// `configuration.child`, copied once: a copy for each client would write to memory shared with the children.
    let childOptions: ChildOptions
    /// The stack that the loop runs on.
    let stack = ParentStack()
    var listeners = ListenerSet()
    var held = HeldClients()
    var heldDatagram: Datagram?
    /// What the datagram that was received last takes up: see `SourceAdmission.Account.number`.
    var heldAccount: Int32 = -1
    /// Nil without an `AdmissionPolicy`.
    var sources: SourceAdmission?
    private(set) var rulesFile: RulesFile?
    /// Clients that were refused, and have not received why yet.
    let refused: Lingering
    /// Whether a drain still serves the clients in the listen queue. False until the server has begun to serve, and in
    /// a loop of the user's own.
    var takesWaiting = false
    var admission = Admission()
    var hasTakenClient = false
    var clientsUntilTrim = 16
    var isShort = false
    let idleSince: ParentCell<Instant>
    /// Used only by a server that lends its listeners to programs.
    var lent = LentListeners()
    /// The signals that stop the server while it serves.
    private var stopSignals: Set<Signal> = []
    private var isPrepared = false
    /// Used only by a server of datagrams; nil once it has stopped.
    var replies: Replies?

    /// Creates a server of connections.
    ///
    /// - Parameters:
    ///   - listener: where clients connect. The server owns it from now on.
    ///   - configuration: limits, timeouts and options.
    ///   - hooks: callbacks; the `hooks` property can also be set later.
    ///   - handler: runs in the child. The child exits with status 0 when it returns, or 1 when it throws.
    /// - Throws: `ForkingError.Code.invalid` if the configuration is invalid or the listener is for datagrams;
    ///   `.system` if a system call fails.
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

    /// Creates a server of datagrams. Children do not have the server's socket: the parent sends their replies while it
    /// serves or collects its children.
    ///
    /// - Parameters:
    ///   - listener: where clients connect. The server owns it from now on.
    ///   - configuration: limits, timeouts and options.
    ///   - hooks: callbacks; the `hooks` property can also be set later.
    ///   - handler: runs in the child. The child exits with status 0 when it returns, or 1 when it throws.
    /// - Throws: `ForkingError.Code.invalid` if the configuration is invalid or the listener is for connections;
    ///   `.system` if a system call fails.
    public convenience init(
        datagrams listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: Hooks = Hooks(), handler: @escaping (Datagram) throws -> Void
    ) throws(ForkingError) {
        guard listener.isDatagram else {
            throw .invalid("the listener on \(listener.address) is not for datagrams: use init(_:)")
        }
        guard configuration.admission?.penalties.areNone != false else {
            throw .invalid(
                "admission has penalties, which datagrams cannot earn: anybody can send one in another's name")
        }
        try self.init(listener, configuration, hooks, .datagrams(handler))
    }

    /// Creates a server that executes a program for each connection. The program has the connection as descriptors 0
    /// and 1, and inherits descriptor 2. See `ChildTable.spawn`.
    ///
    /// - Parameters:
    ///   - listener: where clients connect. The server owns it from now on.
    ///   - configuration: limits, timeouts and options.
    ///   - hooks: callbacks; the `hooks` property can also be set later.
    ///   - program: returns the program and its environment. Runs in the parent for each accepted client, and again for
    ///     a client that had to wait for descriptors. If it throws, the connection is closed.
    /// - Throws: `ForkingError.Code.invalid` if the configuration is invalid, the listener is for datagrams, or the
    ///   process may open fewer descriptors than `maxChildren` children need, one each; `.system` if a system call
    ///   fails.
    public convenience init(
        programs listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: Hooks = Hooks(),
        program: @escaping (borrowing Connection) throws(ForkingError) -> Program
    ) throws(ForkingError) {
        guard !listener.isDatagram else {
            throw .invalid("the listener on \(listener.address) is for datagrams, and programs need connections")
        }
        try configuration.checkDescriptors()
        try self.init(listener, configuration, hooks, .programs(program))
    }

    /// Creates a server that lends its listeners to programs, as inetd(8) does with `wait`: for programs that serve
    /// several clients or datagrams in one process. When a client or datagram arrives, the server executes a program
    /// with the listener's socket as descriptors 0 and 1. The program serves on the socket until it exits. Then the
    /// server waits for the next client or datagram, and executes another program.
    ///
    /// The child's peer is the listener's address. After a program fails, the server waits before it executes the next
    /// one, longer after each failure. When the server stops, a program may continue for `Configuration.drainTimeout`,
    /// and may accept further clients meanwhile.
    ///
    /// - Parameters:
    ///   - listener: where clients connect. The server owns it from now on.
    ///   - configuration: limits, timeouts and options.
    ///   - hooks: callbacks; the `hooks` property can also be set later.
    ///   - program: returns the program to execute for a listener's address. Runs in the parent.
    /// - Throws: `ForkingError.Code.invalid` if the configuration is invalid, or has an admission policy; `.system` if a
    ///   system call fails.
    public convenience init(
        lending listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: Hooks = Hooks(),
        program: @escaping (SocketAddress) throws(ForkingError) -> Program
    ) throws(ForkingError) {
        guard configuration.admission == nil else {
            throw .invalid("admission is set, but the programs accept clients themselves: it must be nil")
        }
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
        if var policy = configuration.admission {
            if let path = policy.rulesFile {
                let file = try RulesFile(path)
                policy.rules = policy.rules.merging(try file.read())
                rulesFile = consume file
            }
            sources = try SourceAdmission(policy)
        }
        refused = Lingering(inParent: true)
        // A child loses its death mark at execve(2): a table that spawns programs must reap by pidfd.
        let reaping: ChildTable.Reaping = service.isOfPrograms ? .pidfd : .signal
        children = try ChildTable(maxChildren: configuration.maxChildren, reaping: reaping)
        loop = try ServerLoop(
            children,
            Lifecycle(
                drainTimeout: configuration.drainTimeout, killTimeout: configuration.child.killTimeout,
                waitsForChildren: configuration.waitsForChildren))
        try take(listener)
        // For ends that are found outside of `turn`, as in a user's own `collect()`.
        children.noteExit = { [weak self] in self?.noteEnd(of: $0) }
        children.noteTrouble = { [weak self] in self?.tell(.trouble($0)) }
        if configuration.reapsStrangers { try children.reapStrangers() }
    }

    deinit { stack.close() }

    /// Adds a listener. The server accepts clients of several listeners in turn. Parent, before serving.
    ///
    /// - Throws: `ForkingError.Code.invalid` if the listener is for datagrams and the server for connections, or the
    ///   reverse, or if the server is serving; `.system` if a system call fails.
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

    /// Serves until the server is stopped and its children have ended. Clients that connected before the stop are
    /// served while the server drains, in their order, unless another process keeps serving on their socket.
    ///
    /// Parent: blocks the calling thread. Meanwhile SIGPIPE is ignored; `Configuration.stopSignals`, SIGHUP, SIGQUIT,
    /// SIGUSR2 and the signals of `hooks` are taken as events; the service manager is notified of the server's state;
    /// and clients of `Configuration.control` are sent its status.
    ///
    /// - Throws: `ForkingError.Code.threads` if this process has more than one thread; `.invalid` if the server was
    ///   stopped before, or if `hooks.beforeFork` throws; `.invalid` or `.system` if the control socket cannot be made;
    ///   `.system` if waiting or accepting fails permanently, after the children were killed; `.notEnded` if the server
    ///   has stopped, but some children could not be ended.
    public func serve() throws(ForkingError) {
        try begin(taking: signalsToTake(), control: configuration.control)
        defer {
            loop.end()
            replies = nil
            reportRefusals(Instant(nanoseconds: .max))
        }
        try InheritedSockets.closeUnclaimed()
        try prepare()
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

    /// Waits for one client, at most for `Configuration.idleTimeout`, and forks a child for it. Children that end
    /// meanwhile are reaped. Use it in a loop of your own, which also polls `children.descriptor` and calls
    /// `children.collect()`, and call `close()` at the end. Signals keep their dispositions. Parent.
    ///
    /// - Returns: whether a client was taken; false after the timeout or a stop.
    /// - Throws: `ForkingError.Code.threads` if this process has more than one thread; `.invalid` if the server was
    ///   stopped before, or is serving; `.system` if waiting or accepting fails permanently.
    @discardableResult
    public func serveOne() throws(ForkingError) -> Bool {
        try begin(taking: nil)
        defer { loop.end() }
        try prepare()
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

    /// Includes SIGUSR2, unless a hook takes it or another thread would get it.
    private func signalsToTake() throws(ForkingError) -> Set<Signal> {
        let hooked = hooks.signals.keys
        stopSignals = configuration.stopSignals
        if !stopSignals.isEmpty { stopSignals.formUnion(ServerLoop.lastResort([.hangup, .quit], hooks: hooked)) }
        let isFree = !hooked.contains(.userDefinedTwo) && !stopSignals.contains(.userDefinedTwo)
        let own: Set<Signal> = isFree && ThreadMasks.firstThatTakes(.userDefinedTwo) == nil ? [.userDefinedTwo] : []
        return try ServerLoop.signals(stopping: stopSignals, own: own, hooks: hooked)
    }

    /// Runs the hook before the first fork, once.
    private func prepare() throws(ForkingError) {
        guard !isPrepared else { return }
        do { try hooks.beforeFork(self) } catch { throw .invalid("beforeFork failed: \(error)") }
        isPrepared = true
    }

    /// Asks the server to stop. Call it from a hook or the parent's own code; other threads use `stopSwitch`.
    public func stop(_ step: StopStep = .drain) { stopSwitch.stop(step) }

    /// Stops accepting clients, and ends the children as a stop does: drain, terminate, kill. Parent.
    ///
    /// - Throws: `ForkingError.Code.invalid` if called from a hook, which can only `stop()` the server; `.system` if
    ///   waiting fails; `.notEnded` if some children could not be ended.
    public func close() throws(ForkingError) {
        try onOwnStack { () throws(ForkingError) in try loop.close(turn) }
        replies = nil
    }

    // MARK: The loop

    private func onOwnStack(_ body: () throws(ForkingError) -> Void) throws(ForkingError) {
        children.requireParent()
        try stack.run(body)
    }

    /// One turn: waits, then handles signals, exits, timers, requests for the status, and last a new client.
    ///
    /// While the table is full or a resource is short, the listeners are not polled: clients wait in the kernel's queue,
    /// at no cost.
    private func turn() throws(ForkingError) {
        hooks.onTurn(self)
        loop.report(reportState, { reportLine })
        let mayAdmit = canAdmit
        let ready = try loop.wait(
            for: mayAdmit ? listeners.polled : -1,
            until: earlier(earlier(earlier(idleDeadline, admission.shortage.until), lent.next), nextOfSources),
            isBusy: isHolding && mayAdmit, isHolding: isHolding)
        if ready.contains(.signal) { takeSignals() }
        if ready.contains(.stop), let step = stopSwitch.take() { advance(to: step) }
        if ready.contains(.children) {
            // Calling a capturing closure retains its context, which writes to memory shared with every child. So the
            // server is notified directly, and the table's closure is called only if the user has set it.
            children.collect(telling: {
                noteEnd(of: $0)
                if children.isObserved { children.onExit($0) }
            })
        }
        if let event = loop.lookAfterUpgrade(ready) { note(event) }
        fireTimers()
        if ready.contains(.control) { loop.answer(from: self) }
        if ready.contains(.work) || isHolding, canAdmit { try takeClient() }
    }

    /// While it drains, the server still makes children for the clients that it holds.
    private var canAdmit: Bool {
        switch loop.life.state {
        case .serving: guard !mustWait else { return false }
        case .stopping(.drain, _): guard isHolding else { return false }
        default: return false
        }
        return admission.decide(isFull: children.isFull) == .admit
    }

    /// Whether a client was accepted, or a datagram received, that has no child yet.
    var isHolding: Bool { !held.isEmpty || heldDatagram != nil }

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

    /// Reports an event to the user's hook.
    func tell(_ event: Event) { hooks.onEvent(self, event) }

    /// Reports a child's end.
    func noteEnd(of exit: ChildExit) {
        admission.noteEnd()
        if exit.tag >= 0 { sources?.noteEnd(of: exit, SourceAdmission.Account(number: exit.tag), at: .now) }
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
        fireSourceTimers(now)
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
