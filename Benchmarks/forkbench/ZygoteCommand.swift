// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Glibc

struct ZygoteCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "zygote",
        abstract: "How long a host waits for a small job that is done in another process, by how it has that done.",
        discussion: """
            Methods: 'zygote' is this library's, with a child forked for each call; 'warm' the same with children forked \
            ahead of calls, 'isolate' with one child for all calls, and 'distributed' with a distributed actor, of which \
            'distributed-json' is given a value that has to be encoded; 'fork' forks the host itself; 'posix_spawn' \
            starts a program, and so does 'swift-subprocess', the package of that name.

            Work: 'echo' gives 16 bytes back, and the program is a small one in C; 'allocate' fills a dictionary and prints \
            it; 'task' runs a group of Tasks; 'foundation' formats a date and makes JSON. For these the program is in Swift.

            A call that has no answer after 2 seconds hangs: its process is killed. After 10 of these a measurement ends. \
            From hosts with busy threads (--host-threads) most of 'fork' hangs, but for 'echo'.

            Exit status: 1 if a call failed or one by the zygote hung, 64 for wrong usage, 71 for what the machine does \
            not have.
            """
    )

    @Option(
        help: ArgumentHelp(
            "How many MiB the host occupies besides (default: 0,100,1024,4096; with --quick 0,100).", valueName: "n,n,…"
        ),
        transform: { try numbers($0, from: 0, to: 1 << 20) })
    var heap: [Int]?
    @Option(help: ArgumentHelp("The methods (default: all).", valueName: "name,…"), transform: Self.methods)
    var methods: [CallMethod] = CallMethod.allCases
    @Option(
        help: ArgumentHelp("What the other process does (default: echo).", valueName: "name,…"), transform: Self.work)
    var work: [CallWork] = [.echo]
    @Option(
        help: ArgumentHelp(
            "How many threads of the host are busy, with SwiftNIO, new types, Foundation and Tasks (default: 0).",
            valueName: "n,n,…"),
        transform: { try numbers($0, from: 0, to: 64) })
    var hostThreads: [Int] = [0]
    @Option(
        help: ArgumentHelp("The pauses between a caller's calls (default: 0).", valueName: "ms,ms,…"),
        transform: { try numbers($0, from: 0, to: 10_000) })
    var pause: [Int] = [0]
    @Option(
        help: ArgumentHelp("How many threads of the host call (default: 1).", valueName: "n,n,…"),
        transform: { try numbers($0, from: 1, to: 64) })
    var callers: [Int] = [1]
    @Option(
        help: ArgumentHelp("How often each is measured, in turn (default: 5; with --quick 2).", valueName: "n"),
        transform: { try number($0, from: 1, to: 1000) })
    var repetitions: Int?
    @Option(
        help: ArgumentHelp(
            "How many calls a measurement has at most (default: 1000; with --quick 200).", valueName: "n"),
        transform: { try number($0, from: 1, to: 10_000_000) })
    var calls: Int?
    @Option(
        help: ArgumentHelp("How long a measurement lasts at most (default: 5; with --quick 1).", valueName: "seconds"))
    var seconds: Double?
    @Flag(help: "End within 40 seconds: small heaps, few measurements.")
    var quick = false
    @Option(help: ArgumentHelp("Also write the results there, a JSON object a line.", valueName: "file"))
    var json: String?
    @Option(
        help: ArgumentHelp(
            "Where Benchmarks/Peers is (default: looked for above this program).", valueName: "directory"))
    var package: String?

    private static func methods(_ list: String) throws -> [CallMethod] { try named(list, "method") }
    private static func work(_ list: String) throws -> [CallWork] { try named(list, "work") }

    private static func named<Choice: CaseIterable & RawRepresentable & Hashable>(
        _ list: String, _ what: String
    ) throws -> [Choice] where Choice.RawValue == String {
        try unique(words(list)).map { word in
            guard let choice = Choice(rawValue: word) else {
                let names = Choice.allCases.map(\.rawValue).joined(separator: ", ")
                throw ValidationError("'\(word)' is no \(what); there is \(names)")
            }
            return choice
        }
    }

    private var plan: CallPlan {
        CallPlan(
            methods: methods, rounds: repetitions ?? (quick ? 2 : 5), calls: calls ?? (quick ? 200 : 1000),
            seconds: seconds ?? (quick ? 1 : 5), isQuick: quick)
    }

    func validate() throws {
        guard plan.seconds >= 0.1, plan.seconds <= 3600 else {
            throw ValidationError("--seconds is \(plan.seconds), and must be from 0.1 to 3600")
        }
    }

    func run() throws {
        let output = try json.map(JSONFile.init)
        try prepareToStartPrograms()
        let hosts = (heap ?? (quick ? [0, 100] : [0, 100, 1024, 4096])).flatMap { heap in
            hostThreads.flatMap { threads in
                callers.flatMap { callers in
                    pause.flatMap { pause in
                        work.map {
                            CallHost(
                                heapMiB: heap, threads: threads, work: $0, pause: Double(pause), callers: callers)
                        }
                    }
                }
            }
        }
        let results = try CallRounds(plan, hosts, package: package).measure()
        Progress.clear()
        let report = CallReport(results: results)
        report.print()
        for line in report.lines() { try output?.write(line) }
        try judge(results)
    }

    private func judge(_ results: [CallResult]) throws {
        let failed = results.reduce(0) { $0 + $1.failed }
        if failed > 0 { Progress.say("\(failed) CALLS FAILED: the numbers above are not to be trusted") }
        let hangs = results.filter { $0.method.isOurs }.reduce(0) { $0 + $1.hangs }
        if hangs > 0 { Progress.say("\(hangs) CALLS BY A ZYGOTE HUNG") }
        if failed > 0 || hangs > 0 || results.contains(where: \.isGivenUp) { throw ExitCode(1) }
    }
}
