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
    /// Where clients come to; with port 0 asked for, the port that the kernel chose.
    public let address: SocketAddress
    public let configuration: Configuration
    /// Set them before serving.
    public var hooks: ServerHooks
    /// Stops the server from any thread; it may outlive it.
    public let stopSwitch: StopSwitch
    /// The children. Forking others in it, signalling them or looking at them is allowed; they count towards the limit.
    public let children: ChildTable

    private let service: Service
    private var listener: Listener?
    private var signals: SignalDescriptor?
    private var admission = Admission()
    private var phase = Phase.serving
    private var clientsTaken = 0
    private var isShort = false
    private var ignoredSIGPIPE = false
    private var idleSince = Instant.now

    /// A server of connections.
    ///
    /// - Parameter handler: runs in the child, which ends when it returns; status 0, or 1 when it throws.
    /// - Throws: `ForkingError.invalid` for a configuration that cannot be, or a listener of datagrams; `.system`.
    public convenience init(
        _ listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: ServerHooks = ServerHooks(),
        handler: @escaping (inout Connection) throws -> Void
    ) throws(ForkingError) {
        guard !listener.isDatagram else {
            throw .invalid("the listener on \(listener.address) is for datagrams: use init(datagrams:)")
        }
        try self.init(listener, configuration, hooks, .connections(handler))
    }

    /// A server of datagrams. Children answer on the server's own socket, which they share.
    ///
    /// - Parameter handler: runs in the child, which ends when it returns; status 0, or 1 when it throws.
    /// - Throws: `ForkingError.invalid` for a configuration that cannot be, or a listener of connections; `.system`.
    public convenience init(
        datagrams listener: consuming Listener, configuration: Configuration = Configuration(),
        hooks: ServerHooks = ServerHooks(), handler: @escaping (Datagram) throws -> Void
    ) throws(ForkingError) {
        guard listener.isDatagram else {
            throw .invalid("the listener on \(listener.address) is not for datagrams: use init(_:)")
        }
        try self.init(listener, configuration, hooks, .datagrams(handler))
    }

    private init(
        _ listener: consuming Listener, _ configuration: Configuration, _ hooks: ServerHooks, _ service: Service
    ) throws(ForkingError) {
        self.configuration = try configuration.checked()
        self.hooks = hooks
        self.service = service
        address = listener.address
        stopSwitch = try StopSwitch()
        children = try ChildTable(limit: configuration.maxChildren)
        self.listener = consume listener
        children.onExit = { [weak self] exit in self?.hooks.observe(.ended(exit)) }
    }

    // MARK: Serving

    /// Serves until the server was stopped; then nothing of it is left alive.
    ///
    /// Parent: blocks the calling thread. Meanwhile SIGPIPE is ignored, and `Configuration.stopSignals` and the signals
    /// of `hooks` are taken as events.
    ///
    /// - Throws: `ForkingError.threads` if this process has more than one thread; `.invalid` if the server was stopped
    ///   before; `.system` if waiting or accepting fails for good. The children are then terminated all the same.
    public func serve() throws(ForkingError) {
        try begin()
        defer { end() }
        hooks.observe(.serving(address))
        do throws(ForkingError) {
            while phase != .over { try turn() }
        } catch {
            abandonShip()
            throw error
        }
    }

    /// Waits for one client, at most for `Configuration.idleTimeout`, and forks a child for it; children that end
    /// meanwhile are reaped. For a loop of your own; `close()` ends what it began.
    ///
    /// - Returns: whether a client was taken; false after a time-out or a stop.
    /// - Throws: as `serve()`.
    @discardableResult
    public func handleRequest() throws(ForkingError) -> Bool {
        try begin(takingSignals: false)
        defer { end() }
        let before = clientsTaken
        let started = Instant.now
        while phase == .serving, clientsTaken == before {
            if let limit = configuration.idleTimeout, started + limit <= .now { return false }
            try turn()
        }
        return clientsTaken > before
    }

    /// Asks the server to stop. From a hook or the parent's code; other threads use `stopSwitch`.
    public func stop(_ step: StopStep = .drain) { stopSwitch.stop(step) }

    /// Reaps the children that have ended, or with `blocking` waits for all of them. Parent.
    public func collectChildren(blocking: Bool = false) throws(ForkingError) {
        if blocking { _ = try children.wait() } else { children.collect() }
    }

    /// Takes no more clients, and ends the children as a stop does: drain, terminate, kill. Parent.
    public func close() throws(ForkingError) {
        stop()
        while phase != .over { try turn() }
    }

    // MARK: The loop

    /// One turn: wait, then signals, exits, time, and last a new client.
    private func turn() throws(ForkingError) {
        hooks.serviceActions()
        let ready = try wait()
        if ready.contains(.signal) { takeSignals() }
        if ready.contains(.stop), let step = stopSwitch.take() { advance(to: step) }
        if ready.contains(.children) { children.collect() }
        keepTime()
        if ready.contains(.client), canAdmit { try takeClient() }
    }

    private struct Ready: OptionSet {
        var rawValue: UInt32
        static let signal = Ready(rawValue: 1)
        static let stop = Ready(rawValue: 2)
        static let children = Ready(rawValue: 4)
        static let client = Ready(rawValue: 8)
    }

    /// Waits for something to do. While the table is full, or something is short, the listener is not among what is
    /// waited for: clients wait in the kernel's queue, at no cost.
    private func wait() throws(ForkingError) -> Ready {
        let polled: InlineArray<4, Int32> = [
            signals?.rawValue ?? -1, stopSwitch.descriptor.rawValue, children.descriptor.rawValue,
            canAdmit ? listener?.descriptor.rawValue ?? -1 : -1,
        ]
        let until = earlier(phase.deadline ?? idleDeadline, admission.shortageUntil)
        let timeout = until.map { max(0, ($0 - .now).inNanoseconds) } ?? -1
        var ready: UInt32 = 0
        let code = polled.span.withUnsafeBufferPointer {
            forkcore_wait_readable($0.baseAddress, $0.count, timeout, &ready)
        }
        try check(code, "ppoll")
        return Ready(rawValue: ready)
    }

    private var canAdmit: Bool {
        phase == .serving && admission.decide(isFull: children.isFull) == .admit
    }

    private func takeSignals() {
        var taken: [Signal] = []
        signals?.take { signal, _ in taken.append(signal) }
        for signal in taken {
            if configuration.stopSignals.contains(signal) {
                advance(to: phase.nextStep)
            } else {
                hooks.signals[signal]?()
            }
        }
    }

    private func keepTime() {
        let now = Instant.now
        admission.keepTime(now)
        switch phase {
        case .serving:
            guard let deadline = idleDeadline, deadline <= now else { return }
            idleSince = now
            children.collect()
            hooks.handleTimeout()
        case .stopping(.kill, let deadline) where deadline <= now && children.count > 0:
            hooks.observe(.abandoned(children.children.map(\.pid)))
            phase = .over
        case .stopping(_, let deadline):
            if children.count == 0 {
                phase = .over
            } else if deadline <= now {
                advance(to: phase.nextStep)
            }
        case .over:
            return
        }
    }

    private var idleDeadline: Instant? {
        phase == .serving ? configuration.idleTimeout.map { idleSince + $0 } : nil
    }
}

// MARK: - Clients

extension ForkingServer {
    private enum Service {
        case connections((inout Connection) throws -> Void)
        case datagrams((Datagram) throws -> Void)
    }

    /// Takes one client from the kernel's queue and forks a child for it.
    private func takeClient() throws(ForkingError) {
        do throws(ForkingError) {
            switch service {
            case .connections(let handler):
                guard let connection = try listener!.accept() else { return }
                noteClient()
                serve(connection, handler)
            case .datagrams(let handler):
                guard let datagram = try listener!.receive(limit: configuration.datagramLimit) else { return }
                noteClient()
                serve(datagram, handler)
            }
        } catch .system(let call, let code) where ForkingServer.shortages.contains(code) {
            // The client stays in the queue. An exit may free what is short; else it is tried again soon.
            admission.noteShortage(at: .now)
            if !isShort { hooks.observe(.shortage(.system(call: call, code))) }
            isShort = true
        }
    }

    private static let shortages: [Errno] = [.tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory, .noBufferSpace]

    private func noteClient() {
        clientsTaken += 1
        idleSince = .now
        isShort = false
    }

    private func serve(_ connection: consuming Connection, _ handler: (inout Connection) throws -> Void) {
        let peer = connection.peer
        do {
            guard try hooks.verifyConnection(connection) else { return hooks.observe(.refused(peer)) }
        } catch {
            return hooks.observe(.verifyFailed(peer, error))
        }
        fork(for: peer) {
            defer { connection.finishWriting() }
            if let timeout = configuration.ioTimeout { try connection.setTimeout(timeout) }
            if configuration.noDelay, !peer.isUnix { try connection.setNoDelay(true) }
            try handler(&connection)
        }
        // Here the parent's copy of the connection closes. The child's is the only one left.
    }

    private func serve(_ datagram: Datagram, _ handler: (Datagram) throws -> Void) {
        do {
            guard try hooks.verifyDatagram(datagram) else { return hooks.observe(.refused(datagram.peer)) }
        } catch {
            return hooks.observe(.verifyFailed(datagram.peer, error))
        }
        fork(for: datagram.peer, keeping: datagram.socket) { try handler(datagram) }
    }

    private func fork(for peer: SocketAddress, keeping socket: FileDescriptor? = nil, _ body: () throws -> Void) {
        var options = configuration.childOptions
        options.keeps = socket?.rawValue
        do throws(ForkingError) {
            let pid = try children.fork(peer: peer, options: options) {
                do {
                    try body()
                    return 0
                } catch {
                    try? hooks.handleError(error, peer)
                    return 1
                }
            }
            hooks.observe(.forked(pid, peer: peer))
        } catch {
            hooks.observe(.forkFailed(peer, error))
        }
    }
}

// MARK: - Beginning and stopping

extension ForkingServer {
    private enum Phase: Equatable {
        case serving
        case stopping(StopStep, until: Instant)
        case over

        var deadline: Instant? {
            if case .stopping(_, let until) = self { until } else { nil }
        }

        /// What a further signal, or a deadline that has come, leads to.
        var nextStep: StopStep {
            switch self {
            case .serving: .drain
            case .stopping(.drain, _): .terminate
            case .stopping, .over: .kill
            }
        }
    }

    private func begin(takingSignals: Bool = true) throws(ForkingError) {
        guard phase == .serving else { throw .invalid("this server was stopped: make a new one") }
        if !configuration.childOptions.allowsThreads { try Threads.requireOne() }
        if takingSignals {
            let taken = configuration.stopSignals.union(hooks.signals.keys)
            try Configuration.checkTakeable(taken)
            signals = try SignalDescriptor(SignalSet(taken))
        }
        forkcore_ignore_sigpipe(true, &ignoredSIGPIPE)
        idleSince = .now
    }

    private func end() {
        signals = nil
        var ignored = false
        if !ignoredSIGPIPE { forkcore_ignore_sigpipe(false, &ignored) }
    }

    /// Goes to a step of stopping, unless it or a harder one was reached.
    private func advance(to step: StopStep) {
        if case .stopping(let current, _) = phase, current >= step { return }
        guard phase != .over else { return }
        hooks.observe(.stopping(step))
        listener = nil
        guard configuration.blockOnClose else {
            phase = .over
            return
        }
        children.endsGroups = true
        switch step {
        case .drain:
            phase = .stopping(.drain, until: .now + configuration.drain)
        case .terminate:
            children.terminateAll()
            phase = .stopping(.terminate, until: .now + configuration.childOptions.killAfter)
        case .kill:
            children.killAll()
            phase = .stopping(.kill, until: .now + Self.patienceWithTheKernel)
        }
    }

    /// A process that was sent SIGKILL ends at once, unless it is stuck in the kernel.
    private static let patienceWithTheKernel = Duration.seconds(5)

    /// The loop cannot go on. No child is left behind.
    private func abandonShip() {
        listener = nil
        children.endsGroups = true
        children.killAll()
        _ = try? children.wait(until: Self.patienceWithTheKernel)
        phase = .over
    }
}
