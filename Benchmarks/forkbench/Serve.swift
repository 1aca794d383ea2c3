// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Glibc

struct Serve: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "How many clients a second forking servers serve, ours and others side by side.",
        discussion: """
            A client connects, sends a line, receives it back, half-closes, waits for the server to close, and comes \
            again at once. All traffic stays on loopback. A peer that is not installed is named, with the command \
            that installs it. The full set takes over an hour: choose peers, and numbers.

            Peers: \(Peer.allCases.map(\.rawValue).joined(separator: ", ")). \
            'ceiling' does not fork: it shows how fast the clients can go.

            --quick: 16 clients, no idle children, two repetitions of one second, and \
            \(Peer.quick.map(\.rawValue).joined(separator: ", ")), unless told otherwise; no new round after 25 seconds.

            Exit status: 1 if a connection failed or a server was given up, 64 for wrong usage, 71 for what the machine does not have.
            """
    )

    @Option(
        help: ArgumentHelp("Which servers (default: all; with --quick as above).", valueName: "name,…"),
        transform: Peer.named)
    var peers: [Peer]?
    @Option(
        help: ArgumentHelp("How many clients at once (default: 1,16,64; with --quick 16).", valueName: "n,n,…"),
        transform: { try numbers($0, from: 1, to: 10_000) })
    var clients: [Int]?
    @Option(
        help: ArgumentHelp(
            "How many idle connections there are besides (default: 0,1000,5000; with --quick 0).", valueName: "n,n,…"),
        transform: { try numbers($0, from: 0, to: 4_194_303) })
    var live: [Int]?
    @Option(
        help: ArgumentHelp("How often each is measured, in turn (default: 5; with --quick 2).", valueName: "n"),
        transform: { try number($0, from: 1, to: 1000) })
    var repetitions: Int?
    @Option(help: ArgumentHelp("How long a measurement lasts (default: 2; with --quick 1).", valueName: "seconds"))
    var seconds: Double?
    @Flag(help: "End within a minute: few peers, few measurements.")
    var quick = false
    @Option(help: ArgumentHelp("Also write the results there, a JSON object a line.", valueName: "file"))
    var json: String?
    @OptionGroup var programs: ServerPrograms

    private var plan: ServePlan {
        ServePlan(
            peers: peers ?? (quick ? Peer.quick : Peer.allCases),
            clients: clients ?? (quick ? [16] : [1, 16, 64]),
            live: live ?? (quick ? [0] : [0, 1000, 5000]),
            rounds: repetitions ?? (quick ? 2 : 5),
            seconds: seconds ?? (quick ? 1 : 2),
            isQuick: quick)
    }

    func validate() throws {
        guard plan.seconds >= 0.1, plan.seconds <= 60 else {
            throw ValidationError("--seconds is \(plan.seconds), and must be from 0.1 to 60")
        }
    }

    func run() throws {
        let output = try json.map(JSONFile.init)
        let workshop = try programs.workshop()
        let (results, failures) = try ServeRounds(plan, workshop).measure()
        Progress.clear()
        guard !results.isEmpty || failures > 0 else { throw Shortage("nothing could be measured") }
        ServeReport.print(results, seconds: plan.seconds)
        for result in results { try output?.write(result.json()) }
        let failed = results.reduce(0) { $0 + $1.failed }
        if failed > 0 {
            Progress.say("\(failed) CONNECTIONS FAILED: the numbers above are not to be trusted")
        }
        if failed > 0 || failures > 0 { throw ExitCode(1) }
    }
}
