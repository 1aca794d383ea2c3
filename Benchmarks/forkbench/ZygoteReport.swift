// SPDX-License-Identifier: Apache-2.0

struct CallReport {
    let results: [CallResult]

    private static let columns: [TextTable.Column] = [
        .init(title: "method", width: 17, isLeft: true), .init(title: "p50", width: 22),
        .init(title: "p99", width: 22), .init(title: "p50 × zygote", width: 20), .init(title: "calls/s", width: 8),
        .init(title: "CPU µs", width: 7),
        .init(title: "calls", width: 7), .init(title: "hangs", width: 6),
    ]

    /// The table for people, a part for each kind of host.
    func print() {
        let samples = results.flatMap(\.samples)
        Swift.print(
            """
            µs until a call's answer was complete: the median of \(results.map(\.samples.count).max() ?? 0) measurements, \
            p10 to p90 in brackets; × zygote: of the same round.
            calls/s: of each caller one after the other, what is to be done after each answer included. CPU: the time of \
            all processors for a call.
            """)
        let table = TextTable(columns: Self.columns)
        for host in unique(results.map(\.host)) {
            Swift.print("\n\(host.name)\n\(table.header)")
            for result in results where result.host == host { Swift.print(table.row(cells(of: result))) }
        }
        Rest.tell(restless: samples.count { !$0.isAtRest }, of: samples.count)
    }

    func lines() -> [JSONLine] { results.filter { !$0.samples.isEmpty }.map(\.json) }

    private func cells(of result: CallResult) -> [String] {
        let base = results.first { $0.method == .zygote && $0.host == result.host }
        let numbers = [result.spread(\.p50), result.spread(\.p99), result.ratio(to: base)].map {
            $0?.description ?? "-"
        }
        let rate = result.spread(\.rate).map { figure($0.median) } ?? "-"
        let processor = result.spread(\.processorTime).map { $0.median > 0 ? figure($0.median) : "-" } ?? "-"
        return [result.method.rawValue] + numbers + [rate, processor, "\(result.calls)", "\(result.hangs)"]
    }
}

extension CallResult {
    /// Of one of the times; nil if no call was answered.
    func spread(_ time: (CallTimes) -> Double) -> Spread? {
        let values = samples.compactMap { $0.times.map(time) }
        return values.isEmpty ? nil : Spread(values)
    }

    /// How many times the base's p50, each measurement against the base's of the same round: what changes from round to
    /// round is the machine's. Nil without a base.
    func ratio(to base: CallResult?) -> Spread? {
        let ratios = samples.compactMap { sample -> Double? in
            let other = base?.samples.first { $0.round == sample.round }
            guard let time = sample.times?.p50, let baseTime = other?.times?.p50 else { return nil }
            return time / baseTime
        }
        return ratios.isEmpty ? nil : Spread(ratios)
    }

    var json: JSONLine {
        var line = JSONLine()
        line.add("benchmark", "zygote")
        line.add("method", method.rawValue)
        line.add("heap_mb", host.heapMiB)
        line.add("host_threads", host.threads)
        line.add("work", host.work.rawValue)
        line.add("pause_ms", host.pause)
        line.add("callers", host.callers)
        line.add("repetitions", samples.count)
        line.add("calls", calls)
        line.add("hangs", hangs)
        line.add("failed", failed)
        if let p50 = spread(\.p50), let p99 = spread(\.p99), let rate = spread(\.rate) {
            line.add("p50_us", p50)
            line.add("p99_us", p99)
            line.add("calls_per_second", rate)
            if host.threads == 0, let time = spread(\.processorTime) { line.add("cpu_us", time) }
        }
        return line
    }
}
