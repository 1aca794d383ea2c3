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

    /// One line of JSON. `batch` is how many children end before they are reaped: one at a time here. Flat, and of numbers and plain words, so that nothing needs quoting.
    func json(children: Int) -> String {
        let times = [("fork_us", fork), ("reap_us", reap), ("cycle_us", cycle)].map { key, spread in
            "\"\(key)\":\(decimal(spread.median)),\"\(key)_p10\":\(decimal(spread.p10)),"
                + "\"\(key)_p90\":\(decimal(spread.p90))"
        }
        return "{\"benchmark\":\"reap\",\"method\":\"\(name)\",\"live\":\(live),\"batch\":1,"
            + "\"children\":\(children),\"repetitions\":\(samples.count),\(times.joined(separator: ","))}"
    }
}

/// The table for people: a row for each method, and under the first one's how many times dearer the others are.
func printTable(_ results: [ReapResult], batch: Int) {
    let titles = ["fork", "reap", "both", "cycle"]
    print(
        """
        µs per child: the median of \(results[0].samples.count) times \(batch) children, and in brackets p10 to p90.
        both: fork and reap, what the parent spends. cycle: from fork until reaped, the child's own life included.
        """)
    print(row("live", "method", titles, "children/s"))
    for live in unique(results.map(\.live)) {
        let group = results.filter { $0.live == live }
        for result in group {
            let spreads = [result.fork, result.reap, result.both, result.cycle]
            print(row("\(live)", result.name, spreads.map(\.description), rate(result.cycle.median)))
        }
        for other in group.dropFirst() {
            let base = group[0]
            let ratios = [
                other.fork.median / base.fork.median, other.reap.median / base.reap.median,
                other.both.median / base.both.median, other.cycle.median / base.cycle.median,
            ]
            let slower = base.cycle.median / other.cycle.median
            print(row("", "\(other.name)/\(base.name)", ratios.map { "× " + decimal($0) }, "× " + decimal(slower)))
        }
    }
}

private func row(_ live: String, _ method: String, _ cells: [String], _ rate: String) -> String {
    padded(live, 7) + "  " + method + String(repeating: " ", count: max(0, 12 - method.count))
        + cells.map { padded($0, 25) }.joined() + padded(rate, 12)
}

private func padded(_ text: String, _ width: Int) -> String {
    String(repeating: " ", count: max(0, width - text.count)) + text
}

private func rate(_ cycle: Double) -> String { String(Int((1_000_000 / cycle).rounded())) }

private func unique(_ numbers: [Int]) -> [Int] {
    var seen: Set<Int> = []
    return numbers.filter { seen.insert($0).inserted }
}

/// Where the middle of the measurements lies, and most of them.
struct Spread: CustomStringConvertible {
    let median: Double
    let p10: Double
    let p90: Double

    init(_ values: [Double]) {
        let sorted = values.sorted()
        func quantile(_ share: Double) -> Double {
            let place = share * Double(sorted.count - 1)
            let below = Int(place)
            let above = min(below + 1, sorted.count - 1)
            return sorted[below] + (sorted[above] - sorted[below]) * (place - Double(below))
        }
        median = quantile(0.5)
        p10 = quantile(0.1)
        p90 = quantile(0.9)
    }

    var description: String { "\(figure(median)) (\(figure(p10))–\(figure(p90)))" }
}

/// As many decimals as a person reads.
private func figure(_ number: Double) -> String {
    let text = decimal(number)
    return String(number < 100 ? text[...] : number < 1000 ? text.dropLast() : text.dropLast(3))
}

/// Two decimals; without Foundation there is no format for it.
func decimal(_ number: Double) -> String {
    let hundredths = Int((number * 100).rounded())
    let fraction = String(hundredths % 100)
    return "\(hundredths / 100)." + (fraction.count == 1 ? "0" : "") + fraction
}
