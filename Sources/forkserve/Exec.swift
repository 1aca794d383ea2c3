// SPDX-License-Identifier: Apache-2.0
//
// The command line's process, before it serves: parses options. It starts no thread.

import ArgumentParser
import Forking

struct Exec: ParsableCommand {
    private static let form = "forkserve exec [options] ADDRESS ... -- PROGRAM [ARG ...]"

    static let configuration = CommandConfiguration(
        abstract: "Runs a program for each connection, which it has as descriptors 0 and 1.",
        usage: form,
        discussion: """
            The program gets the environment variables that programs for tcpserver, inetd and systemd's Accept=yes \
            read: PROTO, TCPLOCALIP, TCPLOCALPORT, TCPREMOTEIP, TCPREMOTEPORT; for Unix sockets UNIXLOCALPATH, \
            UNIXREMOTEPID, UNIXREMOTEEUID, UNIXREMOTEEGID; REMOTE_ADDR, REMOTE_PORT. It inherits descriptor 2 (stderr) \
            from forkserve.

            With --wait the program gets the listening socket as descriptors 0 and 1 instead, and none of these \
            variables. It serves all clients until it ends; when the next client connects, forkserve starts it again.
            """)

    @OptionGroup var common: CommonOptions
    @OptionGroup var options: ServeOptions
    @OptionGroup var program: ProgramOptions
    @Flag(
        help: """
            Do not end processes that a program starts in sessions of their own, such as daemons. By default such a \
            process counts for --max-children once its parent has ended, and ends at --timeout, when the server stops, \
            and when forkserve itself ends.
            """)
    var leaveDaemons = false
    @Argument(
        help: ArgumentHelp(
            """
            One or more addresses to listen on, as in 'forkserve --help'. Then -- and the program to run, with its \
            arguments. The program is searched for in PATH, unless its name contains a slash.
            """,
            valueName: "address"))
    var words: [String]

    /// How many of the words are the program and its arguments: those after the first --.
    private var commandCount: Int {
        let all = Arguments.texts
        return all.firstIndex(of: "--").map { all.count - 1 - $0 } ?? 0
    }
    private var addresses: [String] { words.dropLast(commandCount) }

    func validate() throws {
        guard !addresses.isEmpty else { throw ValidationError("no <address> to listen on: expected \(Self.form)") }
        try common.validate(addresses, datagrams: program.udp)
        try options.check()
        try program.check()
        guard !program.wait || !common.sockets.noDelay else {
            throw ValidationError(
                "--no-delay cannot be used with --wait: the program gets the listening socket, not a connection")
        }
        guard !program.wait || options.admission.values == AdmissionOptions.Values() else {
            throw ValidationError(
                "--wait lets the program accept clients: --per-source, --rate and the like cannot be used with it")
        }
        guard commandCount > 0 else { throw ValidationError("no program to run: expected \(Self.form)") }
        do throws(ForkingError) {
            _ = try ProgramLine.program(ofLast: commandCount, called: program.argv0)
        } catch {
            throw ValidationError(error.description)
        }
    }

    func run() throws {
        var forking = options.values
        forking.leavesDaemons = leaveDaemons
        let service: Job.Service = !program.wait ? .program : program.udp ? .lendingDatagrams : .lending
        try Job(
            service: service, addresses: addresses, programArguments: commandCount, program: program.values,
            common: common.values, forking: forking
        ).run()
    }
}

/// How a program gets the socket that it serves.
struct ProgramOptions: ParsableArguments {
    /// The parsed values, for a `Job`.
    struct Values: Equatable {
        var argv0: String?
        var stderrToClient = false

        mutating func code(_ coder: inout FieldCoder) {
            coder.field(&argv0)
            coder.field(&stderrToClient)
        }
    }

    @Flag(
        help: """
            When a client connects, give PROGRAM the listening socket itself, and wait until PROGRAM has ended, as \
            inetd's 'wait' does.
            """)
    var wait = false
    @Flag(help: "With --wait: listen for datagrams.") var udp = false
    @Flag(help: "Send what PROGRAM writes to stderr to the client.") var stderrToClient = false
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("The name that PROGRAM gets as its argument 0; by default PROGRAM.", valueName: "name"))
    var argv0: String?

    var values: Values { Values(argv0: argv0, stderrToClient: stderrToClient) }

    func check() throws {
        guard wait || !udp else {
            throw ValidationError(
                "--udp needs --wait: datagrams have no connection to give to a program")
        }
        guard !wait || !stderrToClient else {
            throw ValidationError(
                "--stderr-to-client cannot be used with --wait: the program gets the listening socket, not a connection"
            )
        }
    }
}
