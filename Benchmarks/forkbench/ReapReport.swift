// SPDX-License-Identifier: Apache-2.0

/// A method with a number of live children: measured in one go for all batches, or not at all.
struct ReapCell {
    let method: any ReapMethod.Type
    let live: Int
    var results: [ReapResult]
    /// What the machine lacks for it.
    let lack: String?

    var name: String { "\(method.name) with \(live) live" }

    mutating func measure(_ round: Int) throws {
        let largest = results.map(\.batch).max()!
        let run = try ReapRun(method, live: live, largestBatch: largest)
        for index in Rounds.order(of: results.count, in: round) {
            try results[index].samples.append(
                run.measure(batch: results[index].batch, cycles: results[index].cycles))
        }
        try run.end()
    }
}

/// All measurements of one method with one number of live children and one size of batch.
struct ReapResult {
    let method: String
    let live: Int
    let batch: Int
    let cycles: Int
    var samples: [ReapSample] = []

    init(method: String, live: Int, batch: Int, atLeast children: Int) {
        (self.method, self.live, self.batch) = (method, live, batch)
        cycles = (children + batch - 1) / batch
    }

    var fork: Spread { Spread(samples.map(\.fork)) }
    var reap: Spread { Spread(samples.map(\.reap)) }
    var both: Spread { Spread(samples.map(\.both)) }
    var cycle: Spread { Spread(samples.map(\.cycle)) }

    var json: JSONLine {
        var line = JSONLine()
        line.add("benchmark", "reap")
        line.add("method", method)
        line.add("live", live)
        line.add("batch", batch)
        line.add("children", batch * cycles)
        line.add("repetitions", samples.count)
        for (key, spread) in [("fork_us", fork), ("reap_us", reap), ("both_us", both), ("cycle_us", cycle)] {
            line.add(key, spread)
        }
        line.add("both_mean_us", Spread(samples.map(\.bothMean)).median)
        return line
    }
}

/// The table for people: a block for each number of live children and each batch.
struct ReapReport {
    let cells: [ReapCell]

    private static let reference = TableMethod.name
    private static let table = TextTable(columns: [
        .init(title: "method", width: 11, isLeft: true),
        .init(title: "fork", width: 18), .init(title: "reap", width: 18), .init(title: "both", width: 18),
        .init(title: "cycle", width: 18), .init(title: "both", width: 6), .init(title: "cycle", width: 6),
    ])

    func printTable() {
        let results = cells.flatMap(\.results)
        let repetitions = results.map(\.samples.count).max() ?? 0
        print(
            """
            µs per child: the median of \(repetitions) measurements, and in brackets p10–p90. both: fork and reap, what \
            the parent
            spends. cycle: from fork until reaped, the child's own life included. On the right: how many times table's.
            """)
        print(Self.table.header)
        for live in unique(results.map(\.live)) {
            for batch in unique(results.map(\.batch)) { printBlock(live, batch) }
        }
        let samples = results.flatMap(\.samples)
        let restless = samples.count(where: { !$0.isAtRest })
        if restless > 0 {
            print("The machine was not at rest in \(restless) of \(samples.count) measurements: expect a wide spread.")
        }
    }

    private func printBlock(_ live: Int, _ batch: Int) {
        let block = cells.filter { $0.live == live }.compactMap { cell in
            cell.results.first { $0.batch == batch }.map { (result: $0, lack: cell.lack) }
        }
        let base = block.first { $0.result.method == Self.reference && $0.lack == nil }?.result
        print("\(live) live, \(batch == 1 ? "one at a time" : "in batches of \(batch)")")
        for (result, lack) in block {
            if let lack {
                print("\(Self.table.row([result.method]))  skipped: \(lack)")
                continue
            }
            let spreads = [result.fork, result.reap, result.both, result.cycle]
            let ratios = base.map {
                [result.both.median / $0.both.median, result.cycle.median / $0.cycle.median].map { "×" + figure($0) }
            }
            print(Self.table.row([result.method] + spreads.map(\.description) + (ratios ?? [])))
        }
    }
}
