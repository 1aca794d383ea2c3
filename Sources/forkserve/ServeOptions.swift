// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Forking
import Glibc
import SystemPackage

/// The options that every serving command has, and what it does with them.
struct ServeOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp("How many clients are served at once; others wait in the kernel's queue.", valueName: "n"))
    var maxChildren = 40
    @Option(help: ArgumentHelp("How many connections the kernel keeps waiting.", valueName: "n"))
    var backlog = 1024
    @Option(
        help: ArgumentHelp("How long a client is served at most; by default as long as it likes.", valueName: "seconds")
    )
    var timeout: Double?
    @Option(help: ArgumentHelp("How long clients may go on after SIGTERM or SIGINT.", valueName: "seconds"))
    var drain = 10.0
    @Option(help: ArgumentHelp("From a child's SIGTERM to its SIGKILL.", valueName: "seconds"))
    var killAfter = 3.0
    @Flag(help: "A line on stderr for each child: pid, peer, how it ended, how long it took.")
    var verbose = false
    @Flag(help: "Let children that crash print a backtrace, which can take seconds of full CPU each.")
    var backtraces = false

    /// What can be wrong with the command line alone.
    func validate(_ address: String) throws {
        for (name, seconds) in [("--timeout", timeout), ("--drain", drain), ("--kill-after", killAfter)] {
            guard let seconds else { continue }
            guard seconds.isFinite, seconds >= 0, seconds <= 1e9, seconds > 0 || name != "--timeout" else {
                throw ValidationError(
                    "\(name) is \(seconds), and must be a number of seconds, not negative"
                        + (name == "--timeout" ? " and not 0" : ""))
            }
        }
        guard (1...4_194_304).contains(maxChildren) else {
            throw ValidationError("--max-children is \(maxChildren), and must be from 1 to 4194304")
        }
        guard (1...Int(Int32.max)).contains(backlog) else {
            throw ValidationError("--backlog is \(backlog), and must be at least 1")
        }
        do throws(ForkingError) {
            _ = try Place(address)
        } catch {
            throw ValidationError(error.description)
        }
    }

    var serverConfiguration: ForkingServer.Configuration {
        var configuration = ForkingServer.Configuration()
        configuration.maxChildren = maxChildren
        configuration.timeLimit = timeout.map(Duration.seconds)
        configuration.drain = .seconds(drain)
        configuration.killAfter = .seconds(killAfter)
        configuration.crashBacktraces = backtraces
        return configuration
    }

    func listener(on address: String, datagram: Bool) throws(ForkingError) -> Listener {
        switch try Place(address) {
        case .address(let address):
            var options = Listener.Options()
            options.backlog = backlog
            return try Listener(address, datagram: datagram, options: options)
        case .descriptor(let number):
            return try Listener(adopting: FileDescriptor(rawValue: number))
        case .serviceManager:
            guard let socket = try InheritedSockets.take().first else {
                throw .invalid("no socket was handed over: LISTEN_FDS and LISTEN_PID are not set for this process")
            }
            return try Listener(adopting: socket)
        }
    }

    /// Serves until the server is stopped.
    func run(_ server: ForkingServer) throws(ForkingError) {
        let verbose = verbose
        server.hooks.observe = { event in
            if case .serving(let address) = event { announce(address) }
            if case .ended = event, verbose {
                printLine(event.description, to: .standardError)
            } else if event.isTrouble {
                printLine("forkserve: \(event)", to: .standardError)
            }
        }
        server.hooks.handleError = { error, peer in
            printLine("forkserve: child \(getpid()), peer \(peer): \(error)", to: .standardError)
        }
        server.hooks.signals[.user1] = { [unowned server] in printTable(server.children) }
        try server.serve()
    }
}

/// ADDRESS on the command line.
enum Place {
    case address(SocketAddress)
    case descriptor(Int32)
    case serviceManager

    init(_ text: String) throws(ForkingError) {
        if text == "systemd" {
            self = .serviceManager
        } else if text.hasPrefix("fd:") {
            guard let number = Int32(text.dropFirst("fd:".count)), number >= 0 else {
                throw .invalid("'\(text)' is not a descriptor: expected something like fd:3")
            }
            self = .descriptor(number)
        } else {
            self = .address(try SocketAddress(parsing: text))
        }
    }
}

/// The one line on stdout.
private func announce(_ address: SocketAddress) {
    printLine("listening on \(address)", to: .standardOutput)
}

/// SIGUSR1.
private func printTable(_ table: ChildTable) {
    var text = "children: \(table.count) of \(table.limit)"
    for child in table.children {
        let seconds = Double(child.age.components.seconds) + Double(child.age.components.attoseconds) / 1e18
        let age = "\((seconds * 10).rounded() / 10) s"
        text +=
            "\n  pid \(child.pid)  peer \(child.peer.map(String.init(describing:)) ?? "-")  for \(age)"
            + (child.isEnding ? "  ending" : "")
    }
    printLine(text, to: .standardError)
}

/// In one write, so that lines of several processes do not mix.
func printLine(_ line: String, to descriptor: FileDescriptor) {
    _ = try? descriptor.writeAll(Array((line + "\n").utf8))
}

/// Turns what `Forking` throws into a line on stderr and an exit status as in sysexits.h.
func reportingErrors(_ body: () throws -> Void) throws {
    do {
        try body()
    } catch let error as ForkingError {
        printLine("forkserve: \(error)", to: .standardError)
        throw ExitCode(71)  // EX_OSERR
    }
}
