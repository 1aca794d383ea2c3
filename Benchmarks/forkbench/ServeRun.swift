// SPDX-License-Identifier: Apache-2.0
//
// What is fair:
// - All servers answer the same clients, with their limits lifted, and echo until end of stream. They take turns within
//   each round, in an order that changes, and only the one that is measured runs.
// - The machine is at rest while it is measured, the idle children above all (see `Rest`): single connections, one
//   after the other, take the same time again and again before, and about the same after.
// - Connections are counted that end while the load is steady: neither the first nor the last ones are.
// - A server's CPU time is that of all connections of a measurement, their children's included, read when it has reaped
//   them. A server that let the kernel reap would seem to cost nothing; none of these does.
// - The load generator shares the machine with the server, so connections per second are those of both together. What
//   it takes of them is told (client_cpu_us_per_connection), and the peer 'ceiling' shows how far it is from its limit.

import CForkbench
import Glibc

/// One measurement of a server.
struct ServeSample {
    var connectionsPerSecond = 0.0
    /// Microseconds at `ServeRun.percentiles`.
    var latencies: [Double] = []
    /// Microseconds of CPU per connection: the server's with its children, and the load generator's.
    var serverCPU = 0.0
    var clientCPU = 0.0
    /// KiB, the median of some idle children; nil for a server that has none.
    var privateDirty: Double?
    var proportional: Double?
    /// Children that had ended and were not reaped a second after the last connection.
    var zombies = 0
    var failed = 0
    /// Whether the machine was fit to be measured.
    var isAtRest = true
    /// What the first that failed did so for.
    var failure: String?
    /// What the kernel's own threads took of the processors' time, and which took most.
    var kernelShare = 0.0
    var busiestThread: String?
}

enum ServeRun {
    static let percentiles = [50, 90, 99, 99.9]
    /// How long opening the idle connections may take, in seconds.
    static let setUpLimit = 180

    private static let childrenLookedAt = 20

    /// Measures a server that is started for it, once for each number of clients.
    static func measure(_ peer: Peer, _ command: ServerCommand, live: Int, _ plan: ServePlan) throws -> [ServeSample] {
        // Ended children count until they are reaped; some servers take their time.
        let server = try Server(command, limit: live + plan.clients.max()! + 4096)
        let idle = try IdleConnections(live, to: server)
        var samples = try plan.clients.map { try measureAtRest(server, clients: $0, plan) }
        let lost = idle.lost
        if peer.forks {
            let memory = try memoryOfIdleChildren(of: server, live: live)
            for index in samples.indices {
                samples[index].privateDirty = memory.privateDirty
                samples[index].proportional = memory.proportional
            }
        }
        if lost > 0 {
            samples[0].failed += lost
            samples[0].failure = samples[0].failure ?? "\(lost) idle connections were lost\(server.complaint)"
        }
        idle.close()
        try waitUntilReaped(server, seconds: 60)
        return samples
    }

    // MARK: Load

    private static func measureAtRest(_ server: Server, clients: Int, _ plan: ServePlan) throws -> ServeSample {
        var (sample, isAtRest) = try Rest.around(isRough: plan.isQuick) {
            try exchange(with: server)
        } measure: {
            try measure(server, clients, plan.seconds)
        } again: {
            $0.failed == 0
        }
        sample.isAtRest = isAtRest
        return sample
    }

    private static func exchange(with server: Server) throws {
        let code = forkbench_exchange(server.port, UInt64(setUpLimit) * 1_000_000_000)
        try Interruption.check()
        guard code == 0 else {
            let reason = code == ETIMEDOUT ? "in \(setUpLimit) s" : "(\(String(cString: strerror(code))))"
            throw ServerFailure(description: "a single client was not served \(reason)\(server.complaint)")
        }
    }

    private static func measure(_ server: Server, _ clients: Int, _ seconds: Double) throws -> ServeSample {
        let before = ProcessStatus(server.pid)
        let kernelBefore = KernelThreads()  // which looks at all processes: not on the load generator's bill
        let ownBefore = ownCPU()
        let load = try Load(clients: clients, warmUp: min(0.5, seconds / 2), seconds: seconds).put(on: server)
        let own = ownCPU() - ownBefore
        var sample = ServeSample()
        (sample.kernelShare, sample.busiestThread) = kernelBefore.share(
            until: KernelThreads(), processors: Int(forkbench_processors()))
        sample.zombies = try waitUntilReaped(server, seconds: 1)
        guard let before, let after = ProcessStatus(server.pid), after.state != "Z" else {
            throw ServerFailure(description: "it ended while it was measured\(server.complaint)")
        }
        guard load.counted > 0 else {
            throw ServerFailure(description: "no connection ended well (\(load.failure))\(server.complaint)")
        }
        let ticks = Double(after.ticks - before.ticks) / Double(ProcessStatus.ticksPerSecond)
        sample.connectionsPerSecond = load.connectionsPerSecond
        sample.latencies = load.latencies(at: percentiles)
        sample.serverCPU = ticks * 1_000_000 / Double(load.completed)
        sample.clientCPU = own / Double(load.completed)
        sample.failed = load.failed
        if load.failed > 0 { sample.failure = load.failure + server.complaint }
        return sample
    }

    /// Microseconds that this process has computed.
    private static func ownCPU() -> Double {
        var usage = rusage()
        getrusage(RUSAGE_SELF.rawValue, &usage)
        return [usage.ru_utime, usage.ru_stime].reduce(0) { $0 + Double($1.tv_sec) * 1e6 + Double($1.tv_usec) }
    }

    // MARK: Children

    /// - Returns: how many zombies there still are.
    @discardableResult
    private static func waitUntilReaped(_ server: Server, seconds limit: Double) throws -> Int {
        let begun = nanoseconds()
        while true {
            let zombies = ProcessStatus.children(of: server.pid).count { $0.state == "Z" }
            if zombies == 0 || seconds(since: begun) > limit { return zombies }
            try Interruption.sleep(milliseconds: 20)
        }
    }

    private static func memoryOfIdleChildren(of server: Server, live: Int) throws -> ServeMemory {
        let more = try IdleConnections(max(0, childrenLookedAt - live), to: server)
        defer { more.close() }
        try Interruption.sleep(milliseconds: 50)
        let children = ProcessStatus.children(of: server.pid).filter { $0.state != "Z" }.map(\.pid).sorted()
        let step = max(1, children.count / childrenLookedAt)
        let looked = stride(from: 0, to: children.count, by: step).compactMap { ProcessMemory(children[$0]) }
        guard !looked.isEmpty else { throw ServerFailure(description: "the memory of its children cannot be read") }
        return ServeMemory(
            privateDirty: Spread(looked.map(\.privateDirty)).median,
            proportional: Spread(looked.map(\.proportional)).median)
    }
}

/// KiB per idle child.
private struct ServeMemory {
    let privateDirty: Double
    let proportional: Double
}

/// Clients that wait with an open connection, so that a child waits for each.
private final class IdleConnections {
    private var holders: [forkbench_holder] = []

    init(_ count: Int, to server: Server) throws {
        let begun = nanoseconds()
        for first in stride(from: 0, to: count, by: Limits.connectionsPerHolder) {
            let rest = Int64(ServeRun.setUpLimit) * 1_000_000_000 - (nanoseconds() - begun)
            var holder = forkbench_holder()
            let wanted = min(count - first, Limits.connectionsPerHolder)
            let code = forkbench_hold(server.port, wanted, UInt64(max(0, rest)), &holder)
            holders.append(holder)
            try Interruption.check()
            guard code == 0 else {
                defer { close() }
                let held = holders.reduce(0) { $0 + $1.held }
                let reason =
                    code == ETIMEDOUT ? "in \(ServeRun.setUpLimit) s" : "(then: \(String(cString: strerror(code))))"
                throw ServerFailure(
                    description: "only \(held) of \(count) idle connections came about \(reason)\(server.complaint)")
            }
        }
    }

    /// How many of them the server has ended, unasked.
    var lost: Int { holders.indices.reduce(0) { $0 + forkbench_count_lost(&holders[$1]) } }

    func close() {
        for index in holders.indices { forkbench_let_go(&holders[index]) }
        holders = []
    }

    deinit { close() }
}
