// SPDX-License-Identifier: Apache-2.0

import CForkbench
import Glibc

/// What is to be measured.
struct ServePlan {
    let peers: [Peer]
    let clients: [Int]
    let live: [Int]
    let rounds: Int
    let seconds: Double
    let isQuick: Bool
}

/// Goes through the plan, and leaves out what cannot be measured here.
struct ServeRounds {
    private let plan: ServePlan
    private var peers: [(peer: Peer, command: ServerCommand)] = []
    private var results: [ServeResult] = []
    /// A peer that has failed with so many live children does not get another chance.
    private var givenUp: [Int: Set<Peer>] = [:]
    /// How many of these there were; what was skipped before it began is none.
    private var failures = 0

    init(_ plan: ServePlan, _ workshop: Workshop) throws {
        self.plan = plan
        for peer in plan.peers {
            do {
                peers.append((peer, try peer.prepared(in: workshop)))
            } catch let missing as Missing {
                Progress.say("\(peer.rawValue) is skipped: \(missing.reason); to have it: \(missing.remedy)")
            }
        }
        for live in plan.live {
            for (peer, _) in peers {
                if let lack = lack(live, peer) {
                    Progress.say("\(peer.rawValue) with \(live) idle children is skipped: \(lack)")
                    givenUp[live, default: []].insert(peer)
                }
            }
        }
    }

    /// What the machine does not have for so many children. Ended ones count until they are reaped.
    private func lack(_ live: Int, _ peer: Peer) -> String? {
        let clients = plan.clients.max()!
        if let most = KernelFile.number("/proc/sys/net/core/somaxconn"), clients >= most {
            return "it needs a queue of \(clients + 1) connections, and net.core.somaxconn is \(most)"
        }
        let children = live + 2 * clients + 64
        let holders = live / Limits.connectionsPerHolder + 1
        let ours = max(min(live, Limits.connectionsPerHolder), 2 * clients) + 64
        let descriptors = peer.hasDescriptorForEach ? children : ours
        return Limits.lack(
            of: .init(processes: children + holders, descriptors: descriptors, memoryKiB: children * peer.childKiB))
    }

    /// A round measures every peer with every number of live children and clients.
    consuming func measure() throws -> (results: [ServeResult], failures: Int) {
        let begun = nanoseconds()
        for round in 0..<plan.rounds {
            if plan.isQuick, round > 0, seconds(since: begun) > 25 { break }
            for live in plan.live {
                for place in Rounds.order(of: peers.count, in: round) {
                    try measure(peers[place].peer, peers[place].command, live, round)
                }
            }
        }
        let order = plan.peers
        let sorted = results.sorted {
            ($0.live, $0.clients, order.firstIndex(of: $0.peer)!)
                < ($1.live, $1.clients, order.firstIndex(of: $1.peer)!)
        }
        return (sorted, failures)
    }

    private mutating func measure(_ peer: Peer, _ command: ServerCommand, _ live: Int, _ round: Int) throws {
        if givenUp[live, default: []].contains(peer) { return }
        Progress.show("round \(round + 1) of \(plan.rounds): \(live) live, \(peer.rawValue)")
        do {
            let samples = try ServeRun.measure(peer, command, live: live, plan)
            for (clients, sample) in zip(plan.clients, samples) { add(sample, peer, live, clients) }
        } catch let failure as ServerFailure {
            Progress.say("\(peer.rawValue) with \(live) idle children is GIVEN UP: \(failure)")
            failures += 1
            givenUp[live, default: []].insert(peer)
        }
    }

    private mutating func add(_ sample: ServeSample, _ peer: Peer, _ live: Int, _ clients: Int) {
        if sample.failed > 0 {
            let reason = sample.failure ?? ""
            Progress.say(
                "\(peer.rawValue), \(live) idle children, \(clients) clients: \(sample.failed) CONNECTIONS FAILED: \(reason)"
            )
        }
        let place = results.firstIndex { $0.peer == peer && $0.live == live && $0.clients == clients }
        if place == nil { results.append(ServeResult(peer: peer, live: live, clients: clients)) }
        results[place ?? results.count - 1].samples.append(sample)
    }
}
