// SPDX-License-Identifier: Apache-2.0
//
// What is fair:
// - Each measurement is a host of its own, which uses one method: what it did before (a Task, say) makes no other
//   method's forks dearer, or unsafe. Within a round the methods take turns in the same kind of host, in an order that
//   changes.
// - A call is timed until its answer is complete in the host. What comes then, the child's end and its reaping, is in
//   the calls a second: where a large host is forked, that is half of the work. swift-subprocess alone tells of an
//   answer when its program has ended.
// - The programs that are started are as small as can be: for echo a static one in C. What they cannot have is the
//   host's code and data; for work in Swift, the program is the host's own.
// - Direct forks do what fork(2) does, and nothing else. They inherit all of the host's descriptors, which a server's
//   must not.
// - The heap is in pages of 4 KiB. With huge pages a large host would be forked some fifty times faster.

import CForkbench
import Glibc

/// How a host has its jobs done. The names are those that its program knows.
enum CallMethod: String, CaseIterable {
    case zygote
    case warm
    case isolate
    case distributed
    case distributedJSON = "distributed-json"
    case fork
    case posixSpawn = "posix_spawn"
    case subprocess = "swift-subprocess"

    var isOurs: Bool { [.zygote, .warm, .isolate].contains(self) || isDistributed }
    var isDistributed: Bool { self == .distributed || self == .distributedJSON }
    var startsPrograms: Bool { self == .posixSpawn || self == .subprocess }
}

/// What is done in the other process.
enum CallWork: String, CaseIterable { case echo, allocate, task, foundation }

/// What is to be measured in each host.
struct CallPlan {
    let methods: [CallMethod]
    let rounds: Int
    let calls: Int
    let seconds: Double
    let isQuick: Bool
}

/// A kind of host, in which methods are compared.
struct CallHost: Hashable {
    let heapMiB: Int
    let threads: Int
    let work: CallWork
    /// Between a caller's calls, in milliseconds.
    let pause: Double
    /// The number of threads that call.
    let callers: Int

    /// Foundation, linked in, makes each fork dearer: who does not need it has a host without.
    func program(_ method: CallMethod) -> String {
        threads > 0 || work == .foundation || method.isDistributed ? "forkbench-busy-host" : "forkbench-host"
    }

    var name: String {
        "a host of \(heapMiB) MiB" + (threads > 0 ? " with \(threads) busy threads" : "") + ", \(work.rawValue)"
            + (callers > 1 ? ", \(callers) threads call" : "")
            + (pause > 0 ? ", \(decimal(pause, places: pause < 1 ? 1 : 0)) ms between calls" : "")
    }

    /// What the machine lacks for it. The kernel's tables of its pages, and their copies, are some hundredths.
    var lack: String? {
        Limits.lack(
            of: .init(processes: threads + 16, descriptors: 64, memoryKiB: (heapMiB + heapMiB / 64 + 64) * 1024))
    }
}

/// Microseconds, and calls a second.
struct CallTimes {
    let p50: Double
    let p99: Double
    let rate: Double
    /// Of all processors, for a call.
    let processorTime: Double
}

/// One measurement.
struct CallSample {
    let round: Int
    let calls: Int
    let hangs: Int
    let failed: Int
    /// Nil if no call was answered.
    let times: CallTimes?
    /// Whether the machine was fit to be measured.
    var isAtRest = true
}

/// All measurements of a method in a kind of host.
struct CallResult {
    let method: CallMethod
    let host: CallHost
    var samples: [CallSample] = []
    var isGivenUp = false

    var calls: Int { samples.reduce(0) { $0 + $1.calls } }
    var hangs: Int { samples.reduce(0) { $0 + $1.hangs } }
    var failed: Int { samples.reduce(0) { $0 + $1.failed } }
}

/// Goes through the plan, and leaves out what cannot be measured here.
struct CallRounds {
    private let plan: CallPlan
    private var results: [CallResult] = []
    private let programs: CallPrograms
    private let begun = nanoseconds()

    init(_ plan: CallPlan, _ hosts: [CallHost], package: String?) throws {
        self.plan = plan
        programs = try CallPrograms(for: hosts, plan.methods, package: package)
        var lacks: [String] = []
        for host in hosts {
            if let lack = host.lack {
                lacks.append("\(host.name) cannot be measured: \(lack)")
                continue
            }
            let methods = plan.methods.filter { host.work != .echo || !$0.startsPrograms || programs.echo != nil }
            results += methods.map { CallResult(method: $0, host: host) }
        }
        guard !results.isEmpty else { throw Shortage(lacks.first ?? "nothing is left to measure") }
        for lack in lacks { Progress.say(lack) }
    }

    /// A round measures each method in each kind of host.
    consuming func measure() throws -> [CallResult] {
        for round in 0..<plan.rounds {
            for host in unique(results.map(\.host)) {
                if plan.isQuick, round > 0, seconds(since: begun) > 20 { return results }
                let places = results.indices.filter { results[$0].host == host }
                for place in Rounds.order(of: places.count, in: round).map({ places[$0] })
                where !results[place].isGivenUp {
                    try measure(place, round)
                }
            }
        }
        return results
    }

    private mutating func measure(_ place: Int, _ round: Int) throws {
        let (method, host) = (results[place].method, results[place].host)
        let name = "\(method.rawValue) from \(host.name)"
        Progress.show("round \(round + 1) of \(plan.rounds): \(name)")
        do {
            var (sample, isAtRest) = try Rest.around(isRough: plan.isQuick, Self.single) {
                try CallRun(programs.command(method, host, plan), limit: limit(host)).sample(round)
            } again: {
                $0.failed == 0 && $0.hangs == 0
            }
            sample.isAtRest = isAtRest
            results[place].samples.append(sample)
        } catch let failure as ServerFailure {
            Progress.say("\(name) is GIVEN UP: \(failure)")
            results[place].isGivenUp = true
        }
    }

    /// A bare fork of this process: at rest it takes the same time again and again.
    private static func single() throws {
        var child: pid_t = 0
        let code = forkbench_fork(&child)
        guard code == 0 else { throw Shortage("fork", code) }
        while waitpid(child, nil, 0) < 0, errno == EINTR { try Interruption.check() }
    }

    /// In seconds: for the calls, ten that hang, the host's start and its pages.
    private func limit(_ host: CallHost) -> Double { plan.seconds + 60 + Double(host.heapMiB) / 50 }
}

/// The programs that are hosts, and the one that hosts start.
struct CallPrograms {
    /// For `.echo`; nil if it cannot be had here, or is not needed.
    let echo: String?
    /// Its directory lasts as long as this.
    private let workshop: Workshop?
    private let directory = Workshop.parent(Workshop.ownPath())

    init(for hosts: [CallHost], _ methods: [CallMethod], package: String?) throws {
        let all = Set(hosts.flatMap { host in methods.map { host.program($0) } })
        for program in all.sorted() where access("\(directory)/\(program)", X_OK) != 0 {
            throw Shortage("there is no \(directory)/\(program): swift build -c release --package-path Benchmarks")
        }
        guard hosts.contains(where: { $0.work == .echo }), methods.contains(where: \.startsPrograms) else {
            (workshop, echo) = (nil, nil)
            return
        }
        let workshop = try Workshop(package: package, (nil, nil, nil))
        self.workshop = workshop
        do {
            echo = try workshop.echo()
        } catch let missing as Missing {
            echo = nil
            let skipped = methods.filter(\.startsPrograms).map(\.rawValue).joined(separator: " and ")
            Progress.say("echo by \(skipped) is skipped: \(missing.reason); to have it: \(missing.remedy)")
        }
    }

    /// See `HostPlan`.
    func command(_ method: CallMethod, _ host: CallHost, _ plan: CallPlan) -> [String] {
        let command =
            ["\(directory)/\(host.program(method))", method.rawValue, host.work.rawValue]
            + ["\(host.heapMiB)", "\(host.threads)", "\(plan.calls)", "\(plan.seconds)"]
            + ["\(Int(host.pause * 1000))", "\(host.callers)"]
        return command + (host.work == .echo ? echo.map { [$0] } ?? [] : [])
    }
}

/// A host that runs.
final class CallRun {
    private let pid: pid_t
    private let output: Int32
    private let errors: MemoryFile
    private let limit: Double

    /// - Parameter limit: after so many seconds it is given up.
    init(_ command: [String], limit: Double) throws {
        self.limit = limit
        errors = try MemoryFile()
        var ends: [Int32] = [-1, -1]
        let code = forkbench_pipe(&ends)
        guard code == 0 else { throw Shortage("pipe", code) }
        // The host alone has that end then, so that its end is seen.
        let spawned = Result { [errors] in try spawn(command, output: ends[1], errors: errors.descriptor) }
        close(ends[1])
        output = ends[0]
        pid = try spawned.get()
    }

    deinit {
        endProgram(pid)
        close(output)
    }

    /// Waits for the line that it prints at its end.
    func sample(_ round: Int) throws -> CallSample {
        let line = try firstLine(
            on: output, within: limit, late: "it has not ended after \(decimal(limit, places: 0)) s\(errors.quoted)",
            ended: "it ended without a result\(errors.quoted)")
        let numbers = line.split(separator: " ").compactMap { Double($0) }
        guard numbers.count == 7 else { throw ServerFailure(description: "it said '\(line)' in place of its result") }
        let sample = CallSample(
            round: round, calls: Int(numbers[0]), hangs: Int(numbers[1]), failed: Int(numbers[2]),
            times: numbers[3] > 0
                ? CallTimes(p50: numbers[3], p99: numbers[4], rate: numbers[5], processorTime: numbers[6]) : nil)
        if sample.failed > 0 { Progress.say("\(sample.failed) CALLS FAILED\(errors.quoted)") }
        return sample
    }
}
