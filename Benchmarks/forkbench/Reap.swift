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
        let output = try json.map(openForWriting)
        try Limits.provide(children: live.values.max()! + 1, descriptors: 16)
        let results = try measure()
        printTable(results, batch: batch)
        if let output {
            for result in results where !writeAll(result.json(children: batch) + "\n", to: output) {
                throw Shortage(call: "write \(json!)")
            }
            close(output)
        }
    }

    /// A round measures every method at every number of live children. The machine's moods (its clock rate, its
    /// neighbours) change slower than methods alternate, so they fall on all alike; and who goes first alternates too.
    private func measure() throws -> [ReapResult] {
        let begun = nanoseconds()
        var results = live.values.flatMap { live in ReapMethods.all.map { ReapResult(method: $0, live: live) } }
        for round in 0..<rounds {
            if quick, round > 0, nanoseconds() - begun > 20_000_000_000 { break }
            for size in live.values.indices {
                let methods = ReapMethods.all.indices
                for method in round % 2 == 0 ? Array(methods) : methods.reversed() {
                    let index = size * methods.count + method
                    showProgress("round \(round + 1) of \(rounds): \(results[index].live) live, \(results[index].name)")
                    try results[index].samples.append(
                        ReapRun.measure(results[index].method, results[index].live, batch))
                }
            }
        }
        showProgress("")
        return results
    }

    private func openForWriting(_ path: String) throws -> Int32 {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { throw ValidationError("--json \(path): \(String(cString: strerror(errno)))") }
        return descriptor
    }
}

/// Numbers with commas between them.
struct Counts: ExpressibleByArgument, CustomStringConvertible {
    let values: [Int]
    var description: String { values.map(String.init).joined(separator: ",") }
    var defaultValueDescription: String { description }

    init(_ values: [Int]) { self.values = values }

    init?(argument: String) {
        let numbers = argument.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
        // 4,194,304 is the most processes that Linux has numbers for.
        guard numbers.allSatisfy({ $0.map { (0..<4_194_304).contains($0) } ?? false }) else { return nil }
        values = numbers.compactMap { $0 }
    }
}

/// Replaces the line of progress; only for a person who looks.
private func showProgress(_ text: String) {
    if isatty(STDERR_FILENO) == 1 { writeAll("\r\u{1B}[K\(text)", to: STDERR_FILENO) }
}
