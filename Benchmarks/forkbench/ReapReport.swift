// SPDX-License-Identifier: Apache-2.0

/// All measurements of one method with one number of live children.
struct ReapResult {
    let method: any ReapMethod.Type
    let live: Int
    var samples: [ReapSample] = []

    var name: String { method.name }
    var fork: Spread { Spread(samples.map(\.fork)) }
    var reap: Spread { Spread(samples.map(\.reap)) }
    var both: Spread { Spread(samples.map { $0.fork + $0.reap }) }
    var cycle: Spread { Spread(samples.map(\.cycle)) }

    func json(children: Int) -> JSONLine {
        var line = JSONLine()
        line.add("benchmark", "reap")
        line.add("method", name)
        line.add("live", live)
        line.add("batch", 1)
        line.add("children", children)
        line.add("repetitions", samples.count)
        for (key, spread) in [("fork_us", fork), ("reap_us", reap), ("both_us", both), ("cycle_us", cycle)] {
            line.add(key, spread)
        }
        return line
    }
}

/// The table for people: a row for each method, and under the first one's how many times dearer the others are.
func printTable(_ results: [ReapResult], batch: Int) {
    print(
        """
        µs per child: the median of \(results[0].samples.count) times \(batch) children, and in brackets p10 to p90.
        both: fork and reap, what the parent spends. cycle: from fork until reaped, the child's own life included.
        """)
    print(table.header)
    for live in unique(results.map(\.live)) {
        let group = results.filter { $0.live == live }
        for result in group {
            let spreads = [result.fork, result.reap, result.both, result.cycle]
            print(table.row(["\(live)", result.name] + spreads.map(\.description) + [rate(result.cycle.median)]))
        }
        for other in group.dropFirst() {
            let base = group[0]
            let ratios = [
                other.fork.median / base.fork.median, other.reap.median / base.reap.median,
                other.both.median / base.both.median, other.cycle.median / base.cycle.median,
            ]
            print(table.row(["", "\(other.name)/\(base.name)"] + ratios.map { "× " + decimal($0) }))
        }
    }
}

private let table = TextTable(columns: [
    .init(title: "live", width: 6), .init(title: "method", width: 11, isLeft: true),
    .init(title: "fork", width: 20), .init(title: "reap", width: 20), .init(title: "both", width: 20),
    .init(title: "cycle", width: 20), .init(title: "per s", width: 6),
])

private func rate(_ cycle: Double) -> String { String(Int((1_000_000 / cycle).rounded())) }

private func unique(_ numbers: [Int]) -> [Int] {
    var seen: Set<Int> = []
    return numbers.filter { seen.insert($0).inserted }
}
