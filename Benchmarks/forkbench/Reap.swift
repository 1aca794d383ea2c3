// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Glibc

struct Reap: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "What a child costs its parent, by how many others are alive and idle.",
        discussion: """
            One child at a time is forked, ends at once, and is reaped, while others sit there and wait. Methods: \
            'table' is this library's ChildTable; 'sweep' asks for every live child by name after each exit, as \
            Python's ForkingMixIn does.
            """
    )

    @Option(help: ArgumentHelp("How many idle children there are besides.", valueName: "n,n,…"))
    var live = Counts([0, 100, 1000])
    @Option(
        help: ArgumentHelp("How often each method is measured, in turn (default: 5; with --quick 3).", valueName: "n"))
    var repetitions: Int?
    @Option(
        help: ArgumentHelp("How many children one measurement forks (default: 200; with --quick 50).", valueName: "n"))
    var children: Int?
    @Flag(help: "End within a minute: fewer measurements, and no new round after 20 seconds.")
    var quick = false
    @Option(help: ArgumentHelp("Also write the results there, a JSON object a line.", valueName: "file"))
    var json: String?

    private var batch: Int { children ?? (quick ? 50 : 200) }
    private var rounds: Int { repetitions ?? (quick ? 3 : 5) }

    func validate() throws {
        for (name, count) in [("--repetitions", rounds), ("--children", batch)] where !(1...1_000_000).contains(count) {
            throw ValidationError("\(name) is \(count), and must be from 1 to 1000000")
        }
    }

    func run() throws {
        let output = try json.map(JSONFile.init)
        try Limits.provide(children: live.values.max()! + 1, descriptors: 16)
        let results = try measure()
        printTable(results, batch: batch)
        for result in results { try output?.write(result.json(children: batch)) }
    }

    private func measure() throws -> [ReapResult] {
        let begun = nanoseconds()
        var results = live.values.flatMap { live in ReapMethods.all.map { ReapResult(method: $0, live: live) } }
        for round in 0..<rounds {
            if quick, round > 0, nanoseconds() - begun > 20_000_000_000 { break }
            for size in live.values.indices {
                for method in Rounds.order(of: ReapMethods.all.count, in: round) {
                    let index = size * ReapMethods.all.count + method
                    let (live, name) = (results[index].live, results[index].name)
                    Progress.show("round \(round + 1) of \(rounds): \(live) live, \(name)")
                    try results[index].samples.append(
                        ReapRun.measure(results[index].method, results[index].live, batch))
                }
            }
        }
        Progress.clear()
        return results
    }
}
