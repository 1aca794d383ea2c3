// SPDX-License-Identifier: Apache-2.0

import Glibc

/// All measurements of one peer with so many live children and clients.
struct ServeResult {
    let peer: Peer
    let live: Int
    let clients: Int
    var samples: [ServeSample] = []

    var rate: Spread { Spread(samples.map(\.connectionsPerSecond)) }
    var serverCPU: Spread { Spread(samples.map(\.serverCPU)) }
    var privateDirty: Spread? { peer.forks ? Spread(samples.compactMap(\.privateDirty)) : nil }
    var proportional: Spread? { peer.forks ? Spread(samples.compactMap(\.proportional)) : nil }
    var zombies: Int { samples.map(\.zombies).max() ?? 0 }
    var failed: Int { samples.reduce(0) { $0 + $1.failed } }

    func latency(_ index: Int) -> Spread { Spread(samples.map { $0.latencies[index] }) }

    func json() -> JSONLine {
        var line = JSONLine()
        line.add("benchmark", "serve")
        line.add("peer", peer.rawValue)
        line.add("live", live)
        line.add("clients", clients)
        line.add("repetitions", samples.count)
        line.add("connections_per_s", rate)
        for (index, key) in ["p50_us", "p90_us", "p99_us", "p999_us"].enumerated() { line.add(key, latency(index)) }
        line.add("cpu_us_per_connection", serverCPU)
        line.add("client_cpu_us_per_connection", Spread(samples.map(\.clientCPU)))
        if let privateDirty { line.add("private_dirty_kib", privateDirty) }
        if let proportional { line.add("pss_kib", proportional) }
        line.add("kernel_threads_share", Spread(samples.map(\.kernelShare)))
        line.add("zombies", zombies)
        line.add("failed", failed)
        return line
    }
}

enum ServeReport {
    private static let columns: [TextTable.Column] = [
        .init(title: "peer", width: 23, isLeft: true), .init(title: "connections/s", width: 22),
        .init(title: "× c-static", width: 10), .init(title: "p50", width: 8), .init(title: "p90", width: 8),
        .init(title: "p99", width: 8), .init(title: "p99.9", width: 8), .init(title: "CPU", width: 7),
        .init(title: "dirty", width: 7), .init(title: "Pss", width: 7), .init(title: "zombies", width: 7),
        .init(title: "failed", width: 6),
    ]

    /// The table for people, a part for each number of live children and clients.
    static func print(_ results: [ServeResult], seconds: Double) {
        guard let most = results.map(\.samples.count).max() else { return }
        Swift.print(
            """
            Median of \(most) × \(decimal(seconds, places: 1)) s; connections/s with p10 to p90 in brackets.
            p50 to p99.9: µs from connect until the line was back. CPU: the server's, µs per connection.
            dirty, Pss: KiB per idle child (Private_Dirty, Pss).
            """)
        let table = TextTable(columns: columns)
        for live in unique(results.map(\.live)) {
            for clients in unique(results.map(\.clients)) {
                let group = results.filter { $0.live == live && $0.clients == clients }
                guard !group.isEmpty else { continue }
                Swift.print("\n\(live) idle children, \(clients) \(clients == 1 ? "client" : "clients")")
                Swift.print(table.header)
                let base = group.first { $0.peer == .cStatic }?.rate.median
                for result in group { Swift.print(table.row(cells(of: result, base: base))) }
            }
        }
        let samples = results.flatMap(\.samples)
        Rest.tell(restless: samples.count { !$0.isAtRest }, of: samples.count)
        tellOfKernel(samples)
    }

    private static func tellOfKernel(_ samples: [ServeSample]) {
        let busy = samples.filter { $0.kernelShare > 0.1 }
        guard let worst = busy.max(by: { $0.kernelShare < $1.kernelShare }) else { return }
        Swift.print(
            """

            In \(busy.count) of \(samples.count) measurements the kernel's own threads took more than a tenth of the processors' \
            time, \(worst.busiestThread ?? "one of them") most (at worst \(figure(worst.kernelShare * 100)) %): on another kernel \
            these numbers can be others.
            """)
    }

    private static func cells(of result: ServeResult, base: Double?) -> [String] {
        let memory = [result.privateDirty, result.proportional].map { $0.map { figure($0.median) } ?? "-" }
        return [result.peer.rawValue, result.rate.description, base.map { decimal(result.rate.median / $0) } ?? "-"]
            + (0..<4).map { figure(result.latency($0).median) } + [figure(result.serverCPU.median)] + memory
            + ["\(result.zombies)", "\(result.failed)"]
    }
}
