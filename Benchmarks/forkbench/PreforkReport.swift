// SPDX-License-Identifier: Apache-2.0

import Glibc

/// All measurements of one server in one mode with so many connections.
struct PreforkResult {
    let peer: PreforkPeer
    let mode: PreforkMode
    let workers: Int
    let connections: Int
    var samples: [PreforkSample] = []

    var rate: Spread { Spread(samples.map(\.rate)) }
    var p50: Spread { Spread(samples.map(\.p50)) }
    var p99: Spread { Spread(samples.map(\.p99)) }
    var failed: Int { samples.reduce(0) { $0 + $1.failed } }
    var retried: Int { samples.reduce(0) { $0 + $1.retried } }

    /// How many times the base's rate, each measurement against the base's of the same round: what changes from round
    /// to round is the machine's. Nil without a base.
    func ratio(to base: PreforkResult?) -> Spread? {
        let ratios = samples.compactMap { sample in
            base?.samples.first { $0.round == sample.round }.map { sample.rate / $0.rate }
        }
        return ratios.isEmpty ? nil : Spread(ratios)
    }

    func json(base: PreforkResult?) -> JSONLine {
        var line = JSONLine()
        line.add("benchmark", "prefork")
        line.add("server", peer.rawValue)
        line.add("mode", mode.name)
        line.add("workers", workers)
        line.add("connections", connections)
        line.add("repetitions", samples.count)
        line.add("rps", rate)
        line.add("p50_us", p50)
        line.add("p99_us", p99)
        if let ratio = ratio(to: base) { line.add("ratio_to_c_static", ratio) }
        line.add("failed", failed)
        line.add("retried", retried)
        return line
    }
}

struct PreforkReport {
    let results: [PreforkResult]

    private static let columns: [TextTable.Column] = [
        .init(title: "server", width: 24, isLeft: true), .init(title: "requests/s", width: 22),
        .init(title: "× c-static", width: 18), .init(title: "p50", width: 8), .init(title: "p99", width: 8),
        .init(title: "failed", width: 6), .init(title: "retried", width: 7),
    ]

    func lines() -> [JSONLine] { results.map { $0.json(base: base(of: $0)) } }

    /// The table for people, a part for each mode and number of connections.
    func print(seconds: Double) {
        guard let most = results.map(\.samples.count).max() else { return }
        Swift.print(
            """
            \(results[0].workers) workers. Median of \(most) × \(decimal(seconds, places: 1)) s, p10 to p90 in brackets; × c-static: of the same round.
            p50, p99: µs from connect (kept connections: from sending) until the answer was complete.
            """)
        let table = TextTable(columns: Self.columns)
        for mode in PreforkMode.all {
            let ofMode = results.filter { $0.mode == mode }
            for connections in unique(ofMode.map(\.connections)).sorted() {
                Swift.print("\n\(mode.name), \(connections) \(connections == 1 ? "connection" : "connections")")
                Swift.print(table.header)
                for result in ofMode where result.connections == connections {
                    Swift.print(table.row(cells(of: result)))
                }
            }
        }
        let samples = results.flatMap(\.samples)
        Rest.tell(restless: samples.count { !$0.isAtRest }, of: samples.count)
    }

    private func base(of result: PreforkResult) -> PreforkResult? {
        results.first {
            $0.peer == .cStatic && $0.mode == result.mode && $0.connections == result.connections
        }
    }

    private func cells(of result: PreforkResult) -> [String] {
        [result.peer.rawValue, result.rate.description, result.ratio(to: base(of: result))?.description ?? "-"]
            + [figure(result.p50.median), figure(result.p99.median), "\(result.failed)", "\(result.retried)"]
    }
}
