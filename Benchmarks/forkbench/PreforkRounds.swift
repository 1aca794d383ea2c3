// SPDX-License-Identifier: Apache-2.0

import CForkbench
import Glibc

/// Goes through the plan, and leaves out what cannot be measured here.
struct PreforkRounds {
    private let plan: PreforkPlan
    private var peers: [(peer: PreforkPeer, programs: PreforkPrograms)] = []
    private var results: [PreforkResult] = []
    private var givenUp: Set<PreforkPeer> = []

    init(_ plan: PreforkPlan, _ workshop: Workshop) throws {
        self.plan = plan
        let most = (plan.connections + [plan.workers]).max()!
        if let queue = KernelFile.number("/proc/sys/net/core/somaxconn"), most >= queue {
            throw Shortage("it needs a queue of \(most + 1) connections, and net.core.somaxconn is \(queue)")
        }
        try Limits.provide(children: plan.workers + 64, descriptors: 2 * most + 64)
        for peer in plan.peers {
            do {
                peers.append((peer, try peer.prepared(in: workshop)))
            } catch let missing as Missing {
                Progress.say("\(peer.rawValue) is skipped: \(missing.reason); to have it: \(missing.remedy)")
            }
        }
    }

    /// A round measures every peer in every mode with every number of connections.
    consuming func measure() throws -> (results: [PreforkResult], failures: Int) {
        let begun = nanoseconds()
        for round in 0..<plan.rounds {
            if plan.isQuick, round > 0, seconds(since: begun) > 25 { break }
            for place in Rounds.order(of: peers.count, in: round) {
                let (peer, programs) = peers[place]
                if givenUp.contains(peer) { continue }
                do {
                    try measure(peer, programs.http, plan.modes.filter { !$0.isEcho }, round)
                    if let echo = programs.echo { try measure(peer, echo, plan.modes.filter(\.isEcho), round) }
                } catch let failure as ServerFailure {
                    Progress.say("\(peer.rawValue) is GIVEN UP: \(failure)")
                    givenUp.insert(peer)
                }
            }
        }
        let order = plan.peers
        let sorted = results.sorted { order.firstIndex(of: $0.peer)! < order.firstIndex(of: $1.peer)! }
        return (sorted, givenUp.count)
    }

    private mutating func measure(
        _ peer: PreforkPeer, _ command: ServerCommand, _ modes: [PreforkMode], _ round: Int
    ) throws {
        if modes.isEmpty { return }
        let run = PreforkRun(
            peer: peer, server: try Server(command, limit: plan.workers), plan: plan, round: round)
        for mode in modes {
            for connections in plan.connections(in: mode)
            where peer.serves(mode, connections: connections, workers: plan.workers) {
                Progress.show(
                    "round \(round + 1) of \(plan.rounds): \(peer.rawValue), \(mode.name), \(connections) connections")
                add(try run.measure(mode, connections: connections), peer, mode, connections)
            }
        }
    }

    private mutating func add(_ sample: PreforkSample, _ peer: PreforkPeer, _ mode: PreforkMode, _ connections: Int) {
        if sample.failed > 0 {
            Progress.say(
                "\(peer.rawValue), \(mode.name), \(connections) connections: \(sample.failed) REQUESTS FAILED: "
                    + sample.failure)
        }
        let place = results.firstIndex { $0.peer == peer && $0.mode == mode && $0.connections == connections }
        if place == nil {
            results.append(.init(peer: peer, mode: mode, workers: plan.workers, connections: connections))
        }
        results[place ?? results.count - 1].samples.append(sample)
    }
}
