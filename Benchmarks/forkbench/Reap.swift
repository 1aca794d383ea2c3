// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Glibc

struct Reap: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "What a child costs its parent, by how many others are alive and idle.",
        discussion: """
            Children are forked, end at once, and are reaped, one at a time or in batches, while others sit there and \
            wait. Methods: 'table' is this library's ChildTable; 'sweep' asks for every live child by name after each \
            exit, as Python's ForkingMixIn does; 'waitpid-any' is the waitpid(-1) loop of most servers in C; 'pidfd' \
            has a descriptor per child; 'kernel' is the reference, where nobody reaps.
            """
    )

    @Option(
        help: ArgumentHelp(
            "How many idle children there are besides (default: 0,100,1000,5000,20000; with --quick 0,1000).",
            valueName: "n,n,…"),
        transform: { try numbers($0, from: 0, to: 4_194_303) })
    var live: [Int]?
    @Option(
        help: ArgumentHelp("How many children end before they are reaped (default: 1,64).", valueName: "n,n,…"),
        transform: { try numbers($0, from: 1, to: 10_000) })
    var batch: [Int] = [1, 64]
    @Option(
        help: ArgumentHelp(
            "The ways to reap (default: all, \(ReapMethods.all.map { $0.name }.joined(separator: ","))).",
            valueName: "name,…"),
        transform: ReapMethods.named)
    var methods: [any ReapMethod.Type] = ReapMethods.all
    @Option(
        help: ArgumentHelp("How often each method is measured, in turn (default: 5; with --quick 3).", valueName: "n"),
        transform: { try number($0, from: 1, to: 1_000_000) })
    var repetitions: Int?
    @Option(
        help: ArgumentHelp(
            "How many children one measurement forks, rounded up to whole batches (default: 200; with --quick 50).",
            valueName: "n"),
        transform: { try number($0, from: 1, to: 1_000_000) })
    var children: Int?
    @Flag(help: "End within a minute: fewer measurements, and no new round after 20 seconds.")
    var quick = false
    @Option(help: ArgumentHelp("Also write the results there, a JSON object a line.", valueName: "file"))
    var json: String?

    func run() throws {
        let output = try json.map(JSONFile.init)
        var cells = plannedCells()
        try announce(cells)
        try measure(&cells)
        ReapReport(cells: cells).printTable()
        for result in cells.flatMap(\.results) where !result.samples.isEmpty { try output?.write(result.json) }
    }

    /// What is to be measured, and what can't be on this machine, which is found out before rather than run into: a
    /// machine without free processes or memory is of no use to anybody else either.
    private func plannedCells() -> [ReapCell] {
        let atOnce = children ?? (quick ? 50 : 200)
        let live = self.live ?? (quick ? [0, 1000] : [0, 100, 1000, 5000, 20_000])
        return live.flatMap { live in
            methods.map { method in
                let most = live + batch.max()!
                let need = Limits.Need(
                    processes: most, descriptors: 32 + method.descriptorsPerChild * most,
                    memoryKiB: most * (100 + method.descriptorsPerChild * most * 8 / 1024))
                let results = batch.map { ReapResult(method: method.name, live: live, batch: $0, atLeast: atOnce) }
                return ReapCell(method: method, live: live, results: results, lack: Limits.lack(of: need))
            }
        }
    }

    private func announce(_ cells: [ReapCell]) throws {
        for cell in cells {
            guard let lack = cell.lack else { continue }
            writeAll("forkbench: skipping \(cell.name): \(lack)\n", to: STDERR_FILENO)
        }
        guard cells.contains(where: { $0.lack == nil }) else {
            throw Shortage("nothing is left to measure: try fewer live children (--live)")
        }
    }

    private func measure(_ cells: inout [ReapCell]) throws {
        let begun = nanoseconds()
        let rounds = repetitions ?? (quick ? 3 : 5)
        for round in 0..<rounds {
            if quick, round > 0, seconds(since: begun) > 20 { break }
            for first in stride(from: 0, to: cells.count, by: methods.count) {
                for method in Rounds.order(of: methods.count, in: round) where cells[first + method].lack == nil {
                    Progress.show("round \(round + 1) of \(rounds): \(cells[first + method].name)")
                    try cells[first + method].measure(round)
                }
            }
        }
        Progress.clear()
    }
}

extension ReapMethods {
    static func named(_ list: String) throws -> [any ReapMethod.Type] {
        try unique(words(list)).map { word in
            guard let method = all.first(where: { $0.name == word }) else {
                let names = all.map { $0.name }.joined(separator: ", ")
                throw ValidationError("'\(word)' is no method; the methods are \(names)")
            }
            return method
        }
    }
}
