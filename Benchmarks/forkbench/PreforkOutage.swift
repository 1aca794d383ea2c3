// SPDX-License-Identifier: Apache-2.0
//
// What a trap costs those who ask for something else, measured from outside: a Hummingbird application in a pool of
// workers, and the same application in one process that a shell's loop starts again. Requests come in closed loop, each
// on a new connection; once a second one more, on a connection of its own, asks for what traps.
//
// Full strength, as a client can see it: answers are counted in windows of 100 ms; the median of those before the first
// trap, or that of all, if it is more, is full strength. After a trap it is reached with the first window, of those
// that begin every 10 ms, that has at least 80 % of that. It is 0 if the loss of a worker is too small to be seen so. A
// server that gets there no more before the next trap is counted with the whole second.

import CForkbench
import Glibc

/// What is to be measured.
struct OutagePlan {
    let workers: Int
    let connections: Int
    let rounds: Int
    /// In a round, one a second.
    let traps: Int
}

enum OutageServer: String, CaseIterable {
    case prefork = "hummingbird-prefork"
    case loop = "hummingbird-loop"

    func command(_ programs: Workshop.Hummingbirds) -> ServerCommand {
        // A backtrace would be most of the outage, and no server asks for one.
        let quietly = ["env", "SWIFT_BACKTRACE=enable=no"]
        return ServerCommand(announcesPort: false) { place in
            let address = "127.0.0.1:\(place.port)"
            return switch self {
            case .prefork: quietly + [programs.prefork, address, "--workers", "\(place.limit)"]
            case .loop: quietly + ["sh", "-c", "while :; do \"$0\" \"$1\"; done", programs.plain, address]
            }
        }
    }
}

/// All traps of one server.
struct OutageResult {
    let server: OutageServer
    var requests = 0
    var failed = 0
    /// Requests a second at full strength, for each round.
    var rates: [Double] = []
    /// For each trap: how many requests failed from it to the next, the longest time without an answer (ms), and how
    /// long until full strength (ms).
    var failures: [Double] = []
    var gaps: [Double] = []
    var recoveries: [Double] = []

    mutating func add(_ load: HTTPLoadResult) {
        let curve = AnswerCurve(slots: load.slots, firstTrap: load.traps.first?.at_ns ?? 0)
        requests += load.requests
        failed += load.failed
        rates.append(curve.fullStrength * 10)
        for index in load.traps.indices {
            let begin = load.traps[index].at_ns
            let end = index + 1 < load.traps.endIndex ? load.traps[index + 1].at_ns : .max
            failures.append(Double(load.failures.count { $0.at_ns >= begin && $0.at_ns < end }))
            gaps.append(Double(load.traps[index].gap_ns) / 1e6)
            recoveries.append(curve.recovery(from: begin))
        }
    }

    func json(_ plan: OutagePlan) -> JSONLine {
        var line = JSONLine()
        line.add("benchmark", "prefork-outage")
        line.add("server", server.rawValue)
        line.add("workers", server == .loop ? 1 : plan.workers)
        line.add("connections", plan.connections)
        line.add("traps", gaps.count)
        line.add("requests", requests)
        line.add("failed", failed)
        line.add("rps", Spread(rates))
        line.add("failed_per_trap", Spread(failures))
        line.add("gap_ms", Spread(gaps))
        line.add("full_strength_ms", Spread(recoveries))
        return line
    }
}

/// How many requests were answered when.
private struct AnswerCurve {
    let slots: [UInt32]
    /// Answers in a window.
    private(set) var fullStrength = 0.0

    private static let windowSlots = 100 / HTTPLoad.slotMilliseconds
    private static let slotsPerSecond = 1000 / HTTPLoad.slotMilliseconds

    init(slots: [UInt32], firstTrap: UInt64) {
        self.slots = slots
        let windows = stride(from: 0, through: slots.count - Self.windowSlots, by: Self.windowSlots).map(answers)
        for some in [windows.prefix(Self.slot(firstTrap) / Self.windowSlots), windows[...]] where !some.isEmpty {
            fullStrength = max(fullStrength, Spread(Array(some)).median)
        }
    }

    private static func slot(_ nanoseconds: UInt64) -> Int { Int(nanoseconds / 1_000_000) / HTTPLoad.slotMilliseconds }

    private func answers(from slot: Int) -> Double {
        slots[min(slot, slots.count)..<min(slot + Self.windowSlots, slots.count)].reduce(0) { $0 + Double($1) }
    }

    /// Milliseconds.
    func recovery(from trap: UInt64) -> Double {
        let begin = Self.slot(trap)
        let last = Self.slotsPerSecond - Self.windowSlots
        let needed = (0...last).first { answers(from: begin + $0) >= fullStrength * 0.8 }
        return Double((needed ?? Self.slotsPerSecond) * HTTPLoad.slotMilliseconds)
    }
}

struct PreforkOutage {
    let plan: OutagePlan
    let workshop: Workshop

    private static let columns: [TextTable.Column] = [
        .init(title: "server", width: 20, isLeft: true), .init(title: "requests/s", width: 22),
        .init(title: "traps", width: 6), .init(title: "failed", width: 8),
        .init(title: "failed a trap", width: 18), .init(title: "longest gap, ms", width: 20),
        .init(title: "full strength, ms", width: 20),
    ]

    func measure() throws -> [OutageResult] {
        let programs: Workshop.Hummingbirds
        do {
            programs = try workshop.hummingbird()
        } catch let missing as Missing {
            throw Shortage("\(missing.reason); to have it: \(missing.remedy)")
        }
        try Limits.provide(children: plan.workers + 64, descriptors: plan.connections + 64)
        var results = OutageServer.allCases.map { OutageResult(server: $0) }
        for round in 0..<plan.rounds {
            for place in Rounds.order(of: results.count, in: round) {
                Progress.show("round \(round + 1) of \(plan.rounds): \(results[place].server.rawValue)")
                results[place].add(try load(results[place].server.command(programs)))
            }
        }
        return results
    }

    private func load(_ command: ServerCommand) throws -> HTTPLoadResult {
        let server = try Server(command, limit: plan.workers)
        // All workers run, and have answered before.
        _ = try HTTPLoad(connections: plan.connections, seconds: 0.5).put(on: server.port)
        // The last trap has its second, too.
        let seconds = Double(plan.traps) + 0.99
        let load = HTTPLoad(
            connections: plan.connections, trap: .init(path: "/trap", every: 1), seconds: seconds)
        let result = try load.put(on: server.port)
        guard result.trapsSent > 0, result.trapsAnswered == 0 else {
            throw Shortage("\(result.trapsAnswered) of \(result.trapsSent) traps were answered: they did no harm")
        }
        return result
    }

    func print(_ results: [OutageResult]) {
        Swift.print(
            """
            \(plan.workers) workers against one process in a loop, \(plan.connections) connections, a trap a second.
            Medians over the traps, p10 to p90 in brackets. requests/s: at full strength.
            """)
        let table = TextTable(columns: Self.columns)
        Swift.print(table.header)
        for result in results {
            Swift.print(
                table.row(
                    [result.server.rawValue, Spread(result.rates).description, "\(result.gaps.count)"]
                        + ["\(result.failed)", Spread(result.failures).description]
                        + [Spread(result.gaps).description, Spread(result.recoveries).description]))
        }
    }
}
