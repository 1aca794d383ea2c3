// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CForkbench
import Glibc

struct Prefork: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "How many requests a second servers with a pool of workers answer, ours and others side by side.",
        discussion: """
            Modes: close, each request on a new connection; keep-alive, one after the other on the same; echo, a line \
            there and back on a new connection. All traffic stays on loopback. A peer that is not installed is named, \
            with the command that installs it.

            Peers: \(PreforkPeer.allCases.map(\.rawValue).joined(separator: ", ")).

            --quick: 16 connections, two repetitions of one second, and \
            \(PreforkPeer.quick.map(\.rawValue).joined(separator: ", ")), unless told otherwise; no new round after 25 seconds.

            --outage measures something else: what a trap costs the requests beside it, for the example \
            PreforkHummingbird with its workers, and in one process that a shell's loop starts again. --connections \
            (default: 32) is one number then, --seconds (default: 10; with --quick 3) the number of traps in each of \
            --repetitions (default: 3; with --quick 1).

            Exit status: 1 if a request failed or a server was given up, 64 for wrong usage, 71 for what the machine does not have.
            """
    )

    @Option(
        help: ArgumentHelp("Which servers (default: all; with --quick as above).", valueName: "name,…"),
        transform: PreforkPeer.named)
    var peers: [PreforkPeer]?
    @Option(
        help: ArgumentHelp("Which modes (default: all).", valueName: "name,…"), transform: Self.modes)
    var modes: [PreforkMode]?
    @Option(
        help: ArgumentHelp(
            "How many workers each has (default: one for each processor it may use).", valueName: "n"),
        transform: { try number($0, from: 1, to: 1000) })
    var workers: Int?
    @Option(
        help: ArgumentHelp("How many connections at once (default: 1,16,64; with --quick 16).", valueName: "n,n,…"),
        transform: { try numbers($0, from: 1, to: 10_000) })
    var connections: [Int]?
    @Option(
        help: ArgumentHelp("How often each is measured, in turn (default: 5; with --quick 2).", valueName: "n"),
        transform: { try number($0, from: 1, to: 1000) })
    var repetitions: Int?
    @Option(help: ArgumentHelp("How long a measurement lasts (default: 2; with --quick 1).", valueName: "seconds"))
    var seconds: Double?
    @Flag(help: "End within a minute: few peers, few measurements.")
    var quick = false
    @Flag(help: "Measure what a trap costs, as above.")
    var outage = false
    @Option(help: ArgumentHelp("Also write the results there, a JSON object a line.", valueName: "file"))
    var json: String?
    @Option(
        help: ArgumentHelp(
            "Where the examples PreforkHummingbird and PlainHummingbird are (default: where swift build --package-path Examples -c release puts them).",
            valueName: "directory"))
    var hummingbird: String?
    @OptionGroup var programs: ServerPrograms

    private static func modes(_ list: String) throws -> [PreforkMode] {
        try unique(words(list)).map { word in
            guard let mode = PreforkMode.all.first(where: { $0.name == word }) else {
                let names = PreforkMode.all.map(\.name).joined(separator: ", ")
                throw ValidationError("'\(word)' is no mode; the modes are \(names)")
            }
            return mode
        }
    }

    private var plan: PreforkPlan {
        PreforkPlan(
            peers: peers ?? (quick ? PreforkPeer.quick : PreforkPeer.allCases),
            modes: modes ?? PreforkMode.all,
            workers: workers ?? Limits.processors,
            connections: connections ?? (quick ? [16] : [1, 16, 64]),
            rounds: repetitions ?? (quick ? 2 : 5),
            seconds: seconds ?? (quick ? 1 : 2),
            isQuick: quick)
    }

    func validate() throws {
        guard plan.seconds >= 0.1, plan.seconds <= 60 else {
            throw ValidationError("--seconds is \(plan.seconds), and must be from 0.1 to 60")
        }
        if outage, peers != nil || modes != nil || (connections?.count ?? 1) > 1 {
            throw ValidationError("--outage goes with one number of --connections, and without --peers and --modes")
        }
    }

    private var outagePlan: OutagePlan {
        OutagePlan(
            workers: plan.workers, connections: connections?.first ?? 32,
            rounds: repetitions ?? (quick ? 1 : 3), traps: Int((seconds ?? (quick ? 3 : 10)).rounded(.up)))
    }

    func run() throws {
        let output = try json.map(JSONFile.init)
        let workshop = try programs.workshop(hummingbird: hummingbird)
        if outage {
            try measureOutage(workshop, output)
        } else {
            try measureRates(workshop, output)
        }
    }

    private func measureOutage(_ workshop: Workshop, _ output: JSONFile?) throws {
        let outage = PreforkOutage(plan: outagePlan, workshop: workshop)
        let results = try outage.measure()
        Progress.clear()
        outage.print(results)
        for result in results { try output?.write(result.json(outage.plan)) }
    }

    private func measureRates(_ workshop: Workshop, _ output: JSONFile?) throws {
        let (results, failures) = try PreforkRounds(plan, workshop).measure()
        Progress.clear()
        guard !results.isEmpty || failures > 0 else { throw Shortage("nothing could be measured") }
        let report = PreforkReport(results: results)
        report.print(seconds: plan.seconds)
        for line in report.lines() { try output?.write(line) }
        let failed = results.reduce(0) { $0 + $1.failed }
        if failed > 0 {
            Progress.say("\(failed) REQUESTS FAILED: the numbers above are not to be trusted")
        }
        if failed > 0 || failures > 0 { throw ExitCode(1) }
    }
}
