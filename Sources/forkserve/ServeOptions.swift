// SPDX-License-Identifier: Apache-2.0
//
// The command line's process, before it serves: parses options. It starts no thread.

import ArgumentParser
import Forking

/// The options that every serving command has.
struct CommonOptions: ParsableArguments {
    /// The parsed values, for a `Job`.
    struct Values: Equatable {
        var backlog = 1024
        var drainTimeout = 10.0
        var killTimeout = 3.0
        var verbose = false
        var backtraces = false
        var control: String?
        /// Nil: the default, or for an inherited socket the setting that it has. 0: never.
        var keepAlive: Double?
        var userTimeout: Double?
        var sockets = SocketOptions.Values()
        var identity = IdentityOptions.Values()

        mutating func code(_ coder: inout FieldCoder) {
            sockets.code(&coder)
            identity.code(&coder)
            coder.field(&backlog)
            coder.field(&drainTimeout)
            coder.field(&killTimeout)
            coder.field(&verbose)
            coder.field(&backtraces)
            coder.field(&control)
            coder.field(&keepAlive)
            coder.field(&userTimeout)
        }
    }

    @Option(
        help: ArgumentHelp("How many connections the kernel queues while they wait to be accepted.", valueName: "n"))
    var backlog = Values().backlog
    @Option(
        help: ArgumentHelp(
            "After the first SIGTERM or SIGINT: how long clients may go on. Then their processes get SIGTERM.",
            valueName: "seconds"))
    var drainTimeout = Values().drainTimeout
    @Option(
        help: ArgumentHelp(
            "How long after SIGTERM, or SIGABRT for a worker that is stuck, a process gets SIGKILL.",
            valueName: "seconds"))
    var killTimeout = Values().killTimeout
    @Flag(help: "Print a line on stderr for each process that ends (pid, peer, status, duration), and for each stop.")
    var verbose = false
    @Flag(help: "Let processes that crash print a backtrace. Each can take several seconds of CPU time.")
    var backtraces = false
    @Option(
        help: ArgumentHelp(
            """
            Create this Unix socket, accessible only to this user. 'forkserve status' uses it to show what the \
            processes do.
            """,
            valueName: "path"))
    var control: String?
    @Option(
        help: ArgumentHelp(
            """
            When a TCP client has been silent for this time, probe whether its host still responds. Without a response \
            the connection ends after the same time again. 0: do not probe. By default 60; inherited sockets keep \
            their setting.
            """,
            valueName: "seconds"))
    var keepalive: Double?
    @Option(
        help: ArgumentHelp(
            """
            End a TCP connection whose client has not acknowledged what was sent for this time. By default the kernel \
            decides.
            """,
            valueName: "seconds"))
    var userTimeout: Double?
    @OptionGroup var sockets: SocketOptions
    @OptionGroup var identity: IdentityOptions

    var values: Values {
        Values(
            backlog: backlog, drainTimeout: drainTimeout, killTimeout: killTimeout, verbose: verbose,
            backtraces: backtraces,
            control: control, keepAlive: keepalive, userTimeout: userTimeout,
            sockets: sockets.values, identity: identity.values)
    }

    /// Checks what can be checked without opening sockets.
    func validate(_ addresses: [String], datagrams: Bool = false) throws {
        try Bound.seconds("--drain-timeout", drainTimeout)
        try Bound.seconds("--kill-timeout", killTimeout)
        try Bound.count("--backlog", backlog, upTo: Int(Int32.max))
        try Bound.limit("--keepalive", keepalive == 0 ? nil : keepalive, from: 1, upTo: 32_767, ", or 0 for never")
        try Bound.limit("--user-timeout", userTimeout, from: 0.001, upTo: 2_000_000)
        do throws(ForkingError) {
            for address in addresses { try ListenAddress(address).check(datagrams: datagrams) }
            _ = try control.map(ControlPath.address)
        } catch {
            throw ValidationError(error.description)
        }
        try sockets.check(addresses)
        try identity.check()
    }
}

/// The options of servers that fork for each client.
struct ServeOptions: ParsableArguments {
    /// The parsed values, for a `Job`.
    struct Values: Equatable {
        var maxChildren = 40
        var timeout: Double?
        var leavesDaemons = false
        var admission = AdmissionOptions.Values()

        mutating func code(_ coder: inout FieldCoder) {
            admission.code(&coder)
            coder.field(&maxChildren)
            coder.field(&timeout)
            coder.field(&leavesDaemons)
        }
    }

    @Option(
        help: ArgumentHelp("How many clients are served at once. Others wait in the kernel's queue.", valueName: "n"))
    var maxChildren = Values().maxChildren
    @Option(
        help: ArgumentHelp(
            """
            How long a client may be served. Then its process gets SIGTERM, and SIGKILL after --kill-timeout. By default \
            there is no limit.
            """,
            valueName: "seconds"))
    var timeout: Double?
    @OptionGroup var admission: AdmissionOptions

    var values: Values { Values(maxChildren: maxChildren, timeout: timeout, admission: admission.values) }

    func check() throws {
        try admission.check()
        try Bound.limit("--timeout", timeout)
        try Bound.count("--max-children", maxChildren, upTo: 4_194_304)
    }
}

/// The option of servers that read and write themselves; forkserve cannot bound the reads and writes of a program.
struct PatienceOptions: ParsableArguments {
    @Option(
        help: ArgumentHelp(
            """
            How long one read or write may wait for a client. Then the connection is closed. By default there is no \
            limit.
            """,
            valueName: "seconds"))
    var ioTimeout: Double?

    func check() throws { try Bound.limit("--io-timeout", ioTimeout) }
}

/// Checks numbers on the command line.
enum Bound {
    static func seconds(_ name: String, _ seconds: Double) throws {
        guard (0...1e9).contains(seconds) else {
            throw ValidationError("\(name) is \(seconds), and must be a number of seconds from 0 to 1000000000")
        }
    }

    static func limit(_ name: String, _ seconds: Double?) throws {
        guard let seconds else { return }
        // Less than the shortest duration would be zero.
        guard (0...1e9).contains(seconds), Duration.seconds(seconds) > .zero else {
            throw ValidationError(
                "\(name) is \(seconds), and must be a number of seconds above 0, and at most 1000000000")
        }
    }

    static func limit(
        _ name: String, _ seconds: Double?, from low: Double, upTo high: Double, _ more: String = ""
    ) throws {
        guard let seconds, !(low...high).contains(seconds) else { return }
        let range = "from \(low) to \(Int(high))"
        throw ValidationError("\(name) is \(seconds), and must be a number of seconds \(range)\(more)")
    }

    static func count(_ name: String, _ count: Int?, from low: Int = 1, upTo high: Int, _ why: String = "") throws {
        guard let count, !(low...high).contains(count) else { return }
        let range = high == .max ? "at least \(low)" : "from \(low) to \(high)"
        throw ValidationError("\(name) is \(count), and must be \(range)\(why)")
    }
}

extension Job {
    /// Serves until the server is stopped; an error ends the process with a line on stderr.
    func run() throws {
        let status = reportingErrors(start)
        guard status == 0 else { throw ExitCode(status) }
    }
}
