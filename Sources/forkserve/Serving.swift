// SPDX-License-Identifier: Apache-2.0
//
// The server's parent, before and while it serves. Handlers run in children.

import Forking
import Glibc
import SystemPackage

extension Job {
    /// Serves until the server is stopped.
    func serve() throws(ForkingError) {
        switch service {
        case .pool, .httpPool: try servePool()
        default: try serveForking()
        }
    }

    private func serveForking() throws(ForkingError) {
        let server = try forkingServer()
        // These closures capture nothing: calling a capturing closure counts a reference, in memory that children
        // share.
        server.hooks.onEvent = common.verbose ? { tellOfAllEnds($1) } : { tellOfTrouble($1) }
        server.hooks.onError = common.verbose ? { tellOfError($0, $1) } : { tellOfTrouble($0, $1) }
        server.hooks.signals[.userDefinedOne] = { server in printTable(server.status) }
        if forking.admission.rules != nil { server.hooks.signals[.hangup] = { server in server.reloadRules() } }
        if service == .echoDatagrams {
            let echoGuard = EchoGuard(server.addresses)
            server.hooks.verifyDatagram = { echoGuard.admits($1) }
        }
        if service == .echo { server.hooks.beforeFork = { _ in EchoService.rehearse() } }
        try server.serve()
    }

    private func forkingServer() throws(ForkingError) -> ForkingServer {
        let configuration = try configuration()
        var server: ForkingServer?
        try forEachListener { (listener) throws(ForkingError) in
            if let server { try server.add(listener) } else { server = try forkingServer(listener, configuration) }
        }
        return server!
    }

    private func forkingServer(
        _ listener: consuming Listener, _ configuration: ForkingServer.Configuration
    ) throws(ForkingError) -> ForkingServer {
        switch service {
        case .echoDatagrams:
            return try ForkingServer(datagrams: listener, configuration: configuration) { try EchoService.serve($0) }
        case .program:
            let program = try programLine()
            return try ForkingServer(programs: listener, configuration: configuration) {
                (connection) throws(ForkingError) in
                var program = program
                program.environment.append(contentsOf: try ProgramLine.variables(for: connection))
                return program
            }
        case .lending, .lendingDatagrams:
            let program = try programLine()
            return try ForkingServer(lending: listener, configuration: configuration) { _ in program }
        case .echoOnce:
            return try ForkingServer(listener, configuration: configuration) { try EchoService.serveOnce(&$0) }
        case .echo, .pool, .httpPool:
            return try ForkingServer(listener, configuration: configuration) { try EchoService.serve(&$0) }
        }
    }

    private func programLine() throws(ForkingError) -> Program {
        var line = try ProgramLine.program(ofLast: programArguments, called: program.argv0)
        line.isStandardErrorConnected = program.stderrToClient
        return line
    }

    private func configuration() throws(ForkingError) -> ForkingServer.Configuration {
        var configuration = ForkingServer.Configuration()
        configuration.maxChildren = forking.maxChildren
        configuration.child.timeout = forking.timeout.map(Duration.seconds)
        configuration.ioTimeout = ioTimeout.map(Duration.seconds)
        if programArguments > 0, !forking.leavesDaemons { configuration.child.containment = .descendants }
        configuration.noDelay = common.sockets.noDelay
        configuration.drainTimeout = .seconds(common.drainTimeout)
        configuration.child.killTimeout = .seconds(common.killTimeout)
        configuration.child.printsCrashBacktrace = common.backtraces
        configuration.reapsStrangers = true
        configuration.admission = try forking.admission.policy()
        configuration.admission?.maxSources = max(65_536, 2 * forking.maxChildren)
        configuration.control = try common.control.map(ControlPath.address)
        configuration.child.credentials = common.identity.credentials
        configuration.child.oomScore = common.identity.oomScore
        return configuration
    }

    /// Calls `body` for each listener of the command line, at least one. Inherited sockets that no ADDRESS names are an
    /// error.
    func forEachListener(
        _ body: (consuming Listener) throws(ForkingError) -> Void
    ) throws(ForkingError) {
        var options = Listener.Options()
        options.backlog = common.backlog
        common.sockets.apply(to: &options)
        if let keepAlive = common.keepAlive { options.keepAlive = Self.keepAlive(keepAlive) }
        options.userTimeout = common.userTimeout.map(Duration.seconds)
        for address in addresses {
            switch try ListenAddress(address) {
            case .address(let address):
                let isDatagram = service == .echoDatagrams || service == .lendingDatagrams
                try body(asAsked(Listener(address, datagram: isDatagram, options: options)))
            case .descriptor(let number):
                try body(asAsked(Listener(adopting: FileDescriptor(rawValue: number))))
            case .serviceManager(let name):
                try InheritedSockets.forEachListener(named: name) { (listener) throws(ForkingError) in
                    try body(asAsked(listener))
                }
            }
        }
        try InheritedSockets.requireAllTaken()
    }

    /// An inherited socket keeps its settings, except those that the command line sets.
    private func asAsked(_ listener: consuming Listener) throws(ForkingError) -> Listener {
        if let keepAlive = common.keepAlive { try listener.setKeepAlive(Self.keepAlive(keepAlive)) }
        if let timeout = common.userTimeout { try listener.setUserTimeout(.seconds(timeout)) }
        return listener
    }

    private static func keepAlive(_ idle: Double) -> KeepAlive? {
        guard idle > 0 else { return nil }
        let questions = min(6, Int(idle))  // at least a second apart
        return KeepAlive(idle: .seconds(idle), interval: .seconds(idle / Double(questions)), count: questions)
    }
}

/// ADDRESS on the command line.
enum ListenAddress {
    case address(SocketAddress)
    case descriptor(Int32)
    /// The sockets that the service manager handed over: all, or those with this name.
    case serviceManager(named: String?)

    init(_ text: String) throws(ForkingError) {
        if text == "systemd" {
            self = .serviceManager(named: nil)
        } else if text.hasPrefix("systemd:") {
            let name = String(text.dropFirst("systemd:".count))
            guard !name.isEmpty else {
                throw .invalid(
                    "'\(text)' names no socket: expected something like systemd:x.socket, or systemd for all")
            }
            self = .serviceManager(named: name)
        } else if text.hasPrefix("fd:") {
            guard let number = Int32(text.dropFirst("fd:".count)), number >= 0 else {
                throw .invalid("'\(text)' is not a descriptor: expected something like fd:3")
            }
            self = .descriptor(number)
        } else {
            self = .address(try SocketAddress(argument: text))
        }
    }

    /// Checks that a descriptor is a socket of the right kind. The listener checks the rest.
    func check(datagrams: Bool) throws(ForkingError) {
        guard case .descriptor(let number) = self, let type = socketType(of: number) else { return }
        if datagrams, type == Int32(SOCK_STREAM.rawValue) {
            throw .invalid("fd:\(number) is a socket for connections, but --udp is for datagrams")
        }
        if !datagrams, type == Int32(SOCK_DGRAM.rawValue) {
            throw .invalid("fd:\(number) is a socket for datagrams: use --udp, with forkserve echo or exec --wait")
        }
    }
}

/// Child, worker: reports the error that a handler threw.
func tellOfError(_ error: any Error, _ peer: SocketAddress, in process: StaticString = "child") {
    tell("forkserve: \(process) \(getpid()), peer \(peer): \(error)")
}

/// The same, except for errors that clients can cause as often as they like.
func tellOfTrouble(_ error: any Error, _ peer: SocketAddress, in process: StaticString = "child") {
    if (error as? ForkingError)?.isPeersDoing != true { tellOfError(error, peer, in: process) }
}

private func tellOfAllEnds(_ event: ForkingServer.Event) {
    switch event {
    case .ended, .stopping: tell("forkserve: \(event)")
    default: tellOfTrouble(event)
    }
}

private func tellOfTrouble(_ event: ForkingServer.Event) {
    if case .serving(let addresses) = event { addresses.forEach(announce) }
    if event.isTrouble { tell("forkserve: \(event)") }
}

/// Prints the line for an address. forkserve prints nothing else on stdout.
func announce(_ address: SocketAddress) {
    tell("listening on \(address)", on: .standardOutput)
}

/// Turns an error into a line on stderr and an exit status of sysexits.h.
func reportingErrors(_ body: () throws(ForkingError) -> Void) -> Int32 {
    do {
        try body()
        return 0
    } catch {
        tell("forkserve: \(error.namingOptions)")
        return EX_OSERR
    }
}
