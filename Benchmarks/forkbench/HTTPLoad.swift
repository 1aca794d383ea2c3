// SPDX-License-Identifier: Apache-2.0

import CForkbench
import Glibc

/// How requests use connections.
enum HTTPMode: String {
    case close
    case keepAlive = "keep-alive"
}

/// HTTP clients in closed loop, for some time or for so many requests.
struct HTTPLoad {
    /// A request that is to make a worker fail, again and again.
    struct Trap {
        let path: String
        /// Seconds.
        let every: Double
    }

    let connections: Int
    var keepsAlive = false
    var path = "/"
    var trap: Trap?
    /// Seconds.
    var warmUp = 0.0
    var seconds: Double
    var requests: Int?

    /// After a failure, so that a client that is refused does not try for ever: it fails 100 times a second at most.
    static let pauseMilliseconds = 10
    static let slotMilliseconds = 10
    /// Seconds.
    static let patience = 20

    /// Twice what the generator can make of short requests, on a connection that is kept.
    private var capacity: Int { min(Int(seconds * 400_000) + 1, requests ?? .max) }
    private static let mostFailures = 100_000
    private static let mostTraps = 10_000

    func put(on port: UInt16) throws -> HTTPLoadResult {
        var load = forkbench_http()
        load.port = port
        load.connections = connections
        load.keep_alive = keepsAlive
        load.trap_every_ns = UInt64((trap?.every ?? 0) * 1e9)
        load.warm_up_ns = UInt64(warmUp * 1e9)
        load.measure_ns = UInt64(seconds * 1e9)
        load.request_limit = requests ?? 0
        load.pause_ns = UInt64(Self.pauseMilliseconds) * 1_000_000
        load.patience_ns = UInt64(Self.patience) * 1_000_000_000
        load.slot_ns = UInt64(Self.slotMilliseconds) * 1_000_000
        // Written to, so that no page is missing when a latency is noted.
        var latencies = [UInt64](repeating: 1, count: capacity)
        var failures = [forkbench_failure](repeating: .init(), count: min(Self.mostFailures, requests ?? .max))
        var traps = [forkbench_trap](repeating: .init(), count: trap == nil ? 0 : Self.mostTraps)
        var slots = [UInt32](repeating: 0, count: Int((warmUp + seconds) * 1000) / Self.slotMilliseconds + 1)
        let code = latencies.withUnsafeMutableBufferPointer { latencies in
            failures.withUnsafeMutableBufferPointer { failures in
                traps.withUnsafeMutableBufferPointer { traps in
                    slots.withUnsafeMutableBufferPointer { slots in
                        (load.latencies, load.capacity) = (latencies.baseAddress, latencies.count)
                        (load.failures, load.failures_capacity) = (failures.baseAddress, failures.count)
                        (load.traps, load.traps_capacity) = (traps.baseAddress, traps.count)
                        (load.slots, load.slot_count) = (slots.baseAddress, slots.count)
                        return run(&load)
                    }
                }
            }
        }
        try Interruption.check()
        guard code == 0 else { throw Shortage("the load generator", code) }
        return HTTPLoadResult(
            load, latencies.prefix(load.counted), failures.prefix(load.failed), traps.prefix(load.traps_sent), slots)
    }

    private func run(_ load: inout forkbench_http) -> Int32 {
        path.withCString { path in
            load.path = path
            guard let trap else { return forkbench_run_http(&load) }
            return trap.path.withCString {
                load.trap_path = $0
                return forkbench_run_http(&load)
            }
        }
    }
}

struct HTTPLoadResult {
    /// Answers with 200 within the measurement.
    let counted: Int
    /// Over the whole load: `requests` are those answered with 200, those with another status, and those that failed.
    let requests: Int
    let otherStatus: Int
    let failed: Int
    /// Sent again, as the connection was closed that had carried a request before.
    let retried: Int
    let trapsSent: Int
    let trapsAnswered: Int
    let requestsPerSecond: Double
    /// Milliseconds without an answer with 200.
    let longestGap: Double
    /// Of the first failures, when (nanoseconds since the load began) and why (errno); those of all traps; and how many
    /// answers with 200 there were in each slot of time.
    let failures: ArraySlice<forkbench_failure>
    let traps: ArraySlice<forkbench_trap>
    let slots: [UInt32]
    private let histogram: LatencyHistogram

    fileprivate init(
        _ load: forkbench_http, _ latencies: ArraySlice<UInt64>, _ failures: ArraySlice<forkbench_failure>,
        _ traps: ArraySlice<forkbench_trap>, _ slots: [UInt32]
    ) {
        counted = load.counted
        requests = load.requests
        otherStatus = load.other_status
        failed = load.failed
        retried = load.retried
        trapsSent = load.traps_sent
        trapsAnswered = load.traps_answered
        requestsPerSecond = load.elapsed_ns > 0 ? Double(load.counted) / (Double(load.elapsed_ns) / 1e9) : 0
        longestGap = Double(load.longest_gap_ns) / 1e6
        self.failures = failures
        self.traps = traps
        self.slots = slots
        histogram = LatencyHistogram(latencies)
    }

    /// Microseconds.
    func latencies(at percentiles: [Double]) -> [Double] { histogram.values(at: percentiles) }

    /// How many failed for which reason, in words.
    var reasons: String {
        var counts: [Int32: Int] = [:]
        for failure in failures { counts[failure.code, default: 0] += 1 }
        return counts.sorted { $0.value > $1.value }.map { "\($0.value) \(Self.reason($0.key))" }
            .joined(separator: ", ")
    }

    private static func reason(_ code: Int32) -> String {
        switch code {
        case ECONNREFUSED: "refused"
        case ECONNRESET: "reset"
        case EPIPE: "closed before the answer was complete"
        case EPROTO: "answered with what is no answer"
        case ETIMEDOUT: "without an answer in \(HTTPLoad.patience) s"
        default: String(cString: strerror(code))
        }
    }
}
