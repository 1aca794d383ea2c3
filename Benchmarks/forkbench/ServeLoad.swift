// SPDX-License-Identifier: Apache-2.0

import CForkbench
import Glibc
import Histogram

/// Clients in closed loop, for some time.
struct Load {
    let clients: Int
    /// Seconds.
    let warmUp: Double
    let seconds: Double

    /// 200,000 connections a second are several times what the generator can make.
    private var capacity: Int { Int(seconds * 200_000) + 1 }
    private static let patience: UInt64 = 20_000_000_000

    func put(on server: Server) throws -> LoadResult {
        // Written to, so that no page is missing when a latency is noted.
        var latencies = [UInt64](repeating: 1, count: capacity)
        var load = forkbench_load()
        load.port = server.port
        load.clients = clients
        load.warm_up_ns = UInt64(warmUp * 1e9)
        load.measure_ns = UInt64(seconds * 1e9)
        load.patience_ns = Self.patience
        load.capacity = latencies.count
        let code = latencies.withUnsafeMutableBufferPointer { room in
            load.latencies = room.baseAddress
            return forkbench_run_load(&load)
        }
        try Interruption.check()
        guard code == 0 else { throw Shortage("the load generator", code) }
        return LoadResult(load, latencies.prefix(load.counted))
    }
}

struct LoadResult {
    /// Connections that ended within the measurement; `completed`: all that ended well.
    let counted: Int
    let completed: Int
    let failed: Int
    /// Why the first that failed did.
    let failure: String
    let connectionsPerSecond: Double
    private let histogram: LatencyHistogram

    fileprivate init(_ load: forkbench_load, _ latencies: ArraySlice<UInt64>) {
        counted = load.counted
        completed = load.completed
        failed = load.failed
        failure =
            switch load.failure {
            case EPROTO: "the answer was wrong or cut short"
            case ETIMEDOUT: "no answer in 20 s"
            default: String(cString: strerror(load.failure))
            }
        connectionsPerSecond = Double(load.counted) / (Double(load.elapsed_ns) / 1e9)
        histogram = LatencyHistogram(latencies)
    }

    /// Microseconds. Of fewer than 1000 connections the percentile 99.9 is the slowest.
    func latencies(at percentiles: [Double]) -> [Double] { histogram.values(at: percentiles) }
}

/// Latencies, sorted into classes three digits wide.
struct LatencyHistogram {
    private var histogram = Histogram<UInt32>(numberOfSignificantValueDigits: .three)

    init(_ nanoseconds: ArraySlice<UInt64>) {
        for latency in nanoseconds { histogram.record(latency) }
    }

    /// Microseconds.
    func values(at percentiles: [Double]) -> [Double] {
        percentiles.map { Double(histogram.valueAtPercentile($0)) / 1000 }
    }
}
