// SPDX-License-Identifier: Apache-2.0
//
// What is fair:
// - All servers have as many workers, and answer the same requests with the same six bytes. They take turns within each
//   round, in an order that changes, and only the one that is measured runs.
// - The machine is at rest while it is measured (see `Rest`).
// - A worker that stays with a connection (C by hand, forkserve, Apache, Starman) can keep one alive at a time. With
//   more of them than workers the rest would wait in the queue for ever, so such servers are measured with at most as
//   many kept connections as workers. More workers for these alone would be another comparison: what is compared is
//   what the same number of processes do.
// - The load generator shares the machine with the server, for all alike.

import CForkbench
import Glibc

/// What is to be measured.
struct PreforkPlan {
    let peers: [PreforkPeer]
    let modes: [PreforkMode]
    let workers: Int
    let connections: [Int]
    let rounds: Int
    let seconds: Double
    let isQuick: Bool

    /// With kept connections, as many as workers are among them, so that all servers can be compared somewhere.
    func connections(in mode: PreforkMode) -> [Int] {
        mode == .http(.keepAlive) ? unique((connections + [workers]).sorted()) : connections
    }
}

/// One measurement of a server.
struct PreforkSample {
    let round: Int
    let rate: Double
    /// Microseconds.
    let p50: Double
    let p99: Double
    let failed: Int
    let retried: Int
    /// Why requests failed.
    let failure: String
    /// Whether the machine was fit to be measured.
    var isAtRest = true
}

/// A server that runs, and how it is measured.
struct PreforkRun {
    let peer: PreforkPeer
    let server: Server
    let plan: PreforkPlan
    let round: Int

    func measure(_ mode: PreforkMode, connections: Int) throws -> PreforkSample {
        var (sample, isAtRest) = try Rest.around(isRough: plan.isQuick, single(mode)) {
            try once(mode, connections)
        } again: {
            $0.failed == 0
        }
        sample.isAtRest = isAtRest
        return sample
    }

    private func single(_ mode: PreforkMode) -> () throws -> Void {
        let port = server.port
        if mode.isEcho { return { _ = forkbench_is_listening(port) } }
        let request = load(.close, connections: 1, requests: 1)
        return { _ = try request.put(on: port) }
    }

    private func load(_ mode: HTTPMode, connections: Int, requests: Int? = nil) -> HTTPLoad {
        HTTPLoad(
            connections: connections, keepsAlive: mode == .keepAlive, path: peer.path,
            warmUp: requests == nil ? min(0.5, plan.seconds / 2) : 0, seconds: plan.seconds, requests: requests)
    }

    private func once(_ mode: PreforkMode, _ connections: Int) throws -> PreforkSample {
        switch mode {
        case .http(let mode):
            let result = try load(mode, connections: connections).put(on: server.port)
            try check(result.counted, result.reasons, otherStatus: result.otherStatus)
            let latencies = result.latencies(at: [50, 99])
            return PreforkSample(
                round: round, rate: result.requestsPerSecond, p50: latencies[0], p99: latencies[1],
                failed: result.failed, retried: result.retried, failure: result.reasons + server.complaint)
        case .echo:
            let warmUp = min(0.5, plan.seconds / 2)
            let result = try Load(clients: connections, warmUp: warmUp, seconds: plan.seconds).put(on: server)
            try check(result.counted, result.failure, otherStatus: 0)
            let latencies = result.latencies(at: [50, 99])
            return PreforkSample(
                round: round, rate: result.connectionsPerSecond, p50: latencies[0], p99: latencies[1],
                failed: result.failed, retried: 0, failure: result.failure + server.complaint)
        }
    }

    private func check(_ counted: Int, _ failure: String, otherStatus: Int) throws {
        guard let status = ProcessStatus(server.pid), status.state != "Z" else {
            throw ServerFailure(description: "it ended while it was measured\(server.complaint)")
        }
        guard otherStatus == 0 else {
            throw ServerFailure(description: "\(otherStatus) answers were not 200\(server.complaint)")
        }
        guard counted > 0 else {
            throw ServerFailure(description: "nothing was answered (\(failure))\(server.complaint)")
        }
    }
}
