// SPDX-License-Identifier: Apache-2.0
//
// The command line's process, before it serves: parses options. It starts no thread.

import ArgumentParser
import CForkCore
import Forking
import Glibc

/// The program `forkserve`: a server that serves each client in a process of its own.
@main
struct ForkServe: ParsableCommand {
    /// The same as the newest heading of CHANGELOG.md, which a test checks.
    static let version = "0.1.0"

    static let configuration = CommandConfiguration(
        commandName: "forkserve",
        abstract: "Serves each client in a process of its own.",
        discussion: """
            forkserve echo [options] [ADDRESS ...]
              Sends lines back until the client closes; listens on
              127.0.0.1:7777 by default.
            forkserve exec [options] ADDRESS ... -- PROGRAM [ARG ...]
              Runs one PROGRAM per connection, which it has as descriptors 0
              and 1. With --wait it gets the listening socket, as from inetd.
            forkserve prefork [options] [ADDRESS ...]
              Runs a pool of workers that share the socket: an echo, or with
              --http a server with a small fixed answer.
            forkserve status [--json] PATH
              Shows what the processes of a server are doing. The server must have been
              started with --control PATH.

            ADDRESS is one of
              127.0.0.1:7777  [::1]:7777  with port 0 the kernel chooses a port
              localhost:7777              the same as 127.0.0.1:7777
              7777  :7777  *:7777         the same as 0.0.0.0:7777, all of IPv4;
                                          [::]:7777 is all of IPv6 and IPv4
              unix:/run/x.sock            a Unix socket; unix:@name: abstract
              systemd                     all sockets of LISTEN_FDS; systemd:NAME:
                                          those with that name in LISTEN_FDNAMES
              fd:3                        a socket that this process inherited

            When it is ready, it prints 'listening on ADDRESS' on stdout, one line
            for each address. Everything else goes to stderr. The first SIGTERM or
            SIGINT drains: clients that are being served may finish. The second
            terminates the children at once, the third kills them. SIGUSR1 prints
            the table that 'forkserve status' shows.
            Exit status: 0 after a clean stop, 64 for wrong usage, 71 if the system
            refused something.
            """,
        version: "forkserve " + version,
        subcommands: [Echo.self, Exec.self, Prefork.self, Status.self]
    )

    static func main() {
        forkcore_occupy_standard_descriptors()
        if let job = Job.left() {
            Job.takeOwnName()
            Glibc.exit(reportingErrors(job.serve))
        }
        do {
            var command = try parseAsRoot(Arguments.texts)
            try command.run()
        } catch {
            end(with: error)
        }
    }

    /// Prints the error in one line. That line, or --help, says what would be right.
    private static func end(with error: any Error) -> Never {
        let status = exitCode(for: error)
        let text = message(for: error)
        guard !status.isSuccess, !text.isEmpty else { exit(withError: error) }
        tell("forkserve: " + text)
        Glibc.exit(status.rawValue)
    }
}

struct Echo: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Sends lines back until the client closes: the built-in service.")

    @OptionGroup var common: CommonOptions
    @OptionGroup var options: ServeOptions
    @OptionGroup var patience: PatienceOptions
    @Flag(help: "Serve datagrams instead of connections, each in a process of its own.") var udp = false
    @Flag(help: "Send one line back, then close the connection.") var once = false
    @Argument(help: ArgumentHelp("One or more addresses to listen on, as in 'forkserve --help'.", valueName: "address"))
    var addresses = ["127.0.0.1:7777"]

    func validate() throws {
        try common.validate(addresses, datagrams: udp)
        try options.check()
        try patience.check()
        guard !udp || !once else {
            throw ValidationError("--once is for connections, but --udp serves datagrams: use only one of them")
        }
        guard !udp || !common.sockets.noDelay else {
            throw ValidationError("--no-delay is for connections, but --udp serves datagrams: use only one of them")
        }
        guard !udp || options.admission.penalty == nil else {
            throw ValidationError(
                "--penalty is for connections, but --udp serves datagrams, which anybody can send in another's name")
        }
        guard !udp || patience.ioTimeout == nil else {
            throw ValidationError("--io-timeout is for connections, but --udp serves datagrams: use only one of them")
        }
    }

    func run() throws {
        let service: Job.Service = udp ? .echoDatagrams : once ? .echoOnce : .echo
        try Job(
            service: service, addresses: addresses, ioTimeout: patience.ioTimeout, common: common.values,
            forking: options.values
        ).run()
    }
}
