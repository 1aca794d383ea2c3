// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CForkCore
import Forking
import Glibc

/// The program: a server that gives each client a process of its own.
@main
struct ForkServe: ParsableCommand {
    /// Also the newest heading of CHANGELOG.md: a test holds the two together.
    static let version = "0.1.0"

    static let configuration = CommandConfiguration(
        commandName: "forkserve",
        abstract: "Serves each client in a process of its own.",
        discussion: """
            forkserve echo [options] [ADDRESS ...]
              Lines back until the client closes; on 127.0.0.1:7777 by default.
            forkserve exec [options] ADDRESS ... -- PROGRAM [ARG ...]
              One PROGRAM per connection, on its descriptors 0 and 1.
              With --wait it is given the listening socket, as by inetd.
            forkserve prefork [options] [ADDRESS ...]
              A pool of workers, which share the socket: echo, or with --http a
              small HTTP answer.
            forkserve status [--json] PATH
              What a server's processes do, of one that was given --control PATH.

            ADDRESS is one of
              127.0.0.1:7777  [::1]:7777  a port of 0 lets the kernel choose
              localhost:7777              127.0.0.1:7777
              7777  :7777  *:7777         0.0.0.0:7777, all of IPv4; [::]:7777: of both
              unix:/run/x.sock            a Unix socket; unix:@name: abstract
              systemd                     all sockets of LISTEN_FDS; systemd:NAME:
                                          those of that name in LISTEN_FDNAMES
              fd:3                        a socket that this process inherited

            When ready it prints a line on stdout for each, 'listening on ADDRESS'.
            All else goes to stderr. SIGTERM and SIGINT drain, a second one
            terminates the children at once, a third kills them. SIGUSR1 prints
            the table that 'forkserve status' shows. Exit status: 0 after a clean
            stop, 64 for wrong usage, 71 for what the system refused.
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

    /// What is wrong is said in one line; how it would be right, the line says, or --help.
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
    @Flag(help: "Serve datagrams, each in a process of its own, instead of connections.") var udp = false
    @Flag(help: "Send one line back, then close.") var once = false
    @Argument(help: ArgumentHelp("Where to listen, be it at several.", valueName: "address"))
    var addresses = ["127.0.0.1:7777"]

    func validate() throws {
        try common.validate(addresses, datagrams: udp)
        try options.check()
        try patience.check()
        guard !udp || !once else {
            throw ValidationError("--once is for connections, and --udp has none: use one of them")
        }
        guard !udp || !common.sockets.noDelay else {
            throw ValidationError("--no-delay is for connections, and --udp has none: use one of them")
        }
        guard !udp || patience.ioTimeout == nil else {
            throw ValidationError("--io-timeout is for connections, and --udp has none: use one of them")
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
