// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Forking

struct Exec: ParsableCommand {
    private static let form = "forkserve exec [options] ADDRESS ... -- PROGRAM [ARG ...]"

    static let configuration = CommandConfiguration(
        abstract: "Runs a program for each connection, on its descriptors 0 and 1.",
        usage: form,
        discussion: """
            The program gets the variables that programs written for tcpserver, inetd and systemd's Accept=yes read:
            PROTO, TCPLOCALIP, TCPLOCALPORT, TCPREMOTEIP, TCPREMOTEPORT; for Unix sockets UNIXLOCALPATH,
            UNIXREMOTEPID, UNIXREMOTEEUID, UNIXREMOTEEGID; REMOTE_ADDR, REMOTE_PORT. Its descriptor 2 is forkserve's.

            With --wait it has the listening socket there instead, and none of these: it serves who comes, and those who come \
            after, and ends when it likes; then the next who comes has it started again.
            """)

    @OptionGroup var common: CommonOptions
    @OptionGroup var options: ServeOptions
    @OptionGroup var program: ProgramOptions
    @Flag(
        help: """
            Leave alone what a program puts into a session of its own. By default that counts among --max-children \
            once nobody else is its parent, and ends at --timeout, at a stop, and with forkserve itself.
            """)
    var leaveDaemons = false
    @Argument(
        help: ArgumentHelp(
            "Where to listen, be it at several; then --, and what to run, found in PATH unless it has a slash, with its "
                + "arguments.",
            valueName: "address"))
    var words: [String]

    /// How many of the words are the program and its own: those behind the first --.
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

/// How a program is given what it serves.
struct ProgramOptions: ParsableArguments {
    /// As plain values, for a job.
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
            Give PROGRAM the listening socket itself, when somebody comes, and look after that again once it has ended: inetd's \
            'wait'.
            """)
    var wait = false
    @Flag(help: "With --wait: a socket for datagrams.") var udp = false
    @Flag(help: "The client reads what PROGRAM writes to stderr.") var stderrToClient = false
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp("What PROGRAM sees as its own name, in place of how it was called.", valueName: "name"))
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
