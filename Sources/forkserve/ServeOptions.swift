// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Forking

/// The options that every serving command has.
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
    @Option(
        help: ArgumentHelp(
            "For echo: how many children are forked ahead, so that a client need not wait for it.", valueName: "n"))
    var spares = 0
    @Flag(help: "A line on stderr for each child: pid, peer, how it ended, how long it took; and as it stops.")
    var verbose = false
    @Flag(help: "Let children that crash print a backtrace, which can take seconds of full CPU each.")
    var backtraces = false

    /// What can be wrong with the command line alone.
    func validate(_ address: String) throws {
        for (name, seconds) in [("--timeout", timeout), ("--drain", drain), ("--kill-after", killAfter)] {
            guard let seconds else { continue }
            // What is less than the shortest duration there is would be none.
            guard (0...1e9).contains(seconds), name != "--timeout" || Duration.seconds(seconds) > .zero else {
                throw ValidationError(
                    "\(name) is \(seconds), and must be a number of seconds "
                        + (name == "--timeout" ? "above 0, and at most 1000000000" : "from 0 to 1000000000"))
            }
        }
        guard (1...4_194_304).contains(maxChildren) else {
            throw ValidationError("--max-children is \(maxChildren), and must be from 1 to 4194304")
        }
        guard (0...min(maxChildren, 1024)).contains(spares) else {
            throw ValidationError(
                "--spares is \(spares), and must be from 0 to \(min(maxChildren, 1024)): at most --max-children, and 1024"
            )
        }
        guard (1...Int(Int32.max)).contains(backlog) else {
            throw ValidationError("--backlog is \(backlog), and must be from 1 to \(Int32.max)")
        }
        do throws(ForkingError) {
            _ = try Place(address)
        } catch {
            throw ValidationError(error.description)
        }
    }

    /// Serves until the server is stopped; an error ends the process with a line on stderr.
    func start(_ service: Job.Service, on address: String, programArguments: Int = 0) throws {
        let job = Job(
            service: service, address: address, programArguments: programArguments, maxChildren: maxChildren,
            spares: spares, backlog: backlog, timeout: timeout, drain: drain, killAfter: killAfter, verbose: verbose,
            backtraces: backtraces)
        let status = reportingErrors(job.start)
        guard status == 0 else { throw ExitCode(status) }
    }
}
