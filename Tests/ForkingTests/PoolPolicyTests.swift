// SPDX-License-Identifier: Apache-2.0

import SystemPackage
import Testing

@testable import Forking

/// A pool without processes: what workers would say of themselves is set, and what the policy has done about them is
/// kept.
private struct Played {
    var policy: PoolPolicy
    var now = Instant(nanoseconds: 1_000_000_000_000)
    var snapshots: [ProcessID: WorkerSnapshot] = [:]
    var isStarting = true
    /// Whether forks succeed.
    var forks = true
    var tooLarge: ProcessID?
    private var lastPid: ProcessID = 100

    init(workers: Int = 2, maximum: Int? = nil, _ change: (inout PoolPolicy.Rules) -> Void = { _ in }) {
        var rules = PoolPolicy.Rules(
            startTimeout: .seconds(30), drainTimeout: .seconds(10), isDrainTimeoutFirm: false, killTimeout: .seconds(3),
            maxReplacedAtOnce: 1, limitsMemory: false)
        change(&rules)
        policy = PoolPolicy(rules, size: PoolSize(minimum: workers, maximum: maximum ?? workers, ceiling: 64))
    }

    /// What happens, in words.
    private mutating func carryOut(_ actions: [PoolPolicy.Action]) -> [String] {
        var told: [String] = []
        for action in actions {
            switch action {
            case .tell(let event): told.append(event.description)
            case .fork:
                guard !policy.isPausing else { continue }
                guard forks else {
                    told += carryOut(policy.noteForkFailed(.system(call: "fork", .noMemory), at: now))
                    continue
                }
                lastPid += 1
                snapshots[lastPid] = .fresh(now)
                let number = policy.nextNumber
                policy.noteForked(lastPid, number: number, retiresAt: nil, .fresh(now), at: now)
                told.append(PreforkServer.Event.forked(lastPid, number: number).description)
            case .drain(let pid): told.append("ask \(pid)")
            case .terminate(let pid): told.append("SIGTERM \(pid)")
            case .abort(let pid): told.append("SIGABRT \(pid)")
            case .kill(let pid): told.append("SIGKILL \(pid)")
            case .weigh(let pid):
                told.append("weigh \(pid)")
                if pid == tooLarge { policy.noteTooLarge(pid, at: now) }
            case .noteServing:
                isStarting = false
                told.append("serving")
            case .tellReloaded: told.append("reloaded")
            case .giveUp: told.append("give up")
            }
        }
        return told
    }

    private var inOrder: [WorkerSnapshot] { policy.workers.map { snapshots[$0.pid]! } }

    /// One turn of the parent's loop.
    mutating func turn(queued: Int = 0) -> [String] {
        carryOut(policy.reconcile(inOrder, queued: { queued }, isStarting: isStarting, at: now))
    }

    mutating func say(_ pid: ProcessID, _ change: (inout WorkerSnapshot) -> Void) -> [String] {
        change(&snapshots[pid]!)
        return turn()
    }

    mutating func ready(_ pid: ProcessID) -> [String] { say(pid) { $0.isReady = true } }

    mutating func replaceAll() -> [String] {
        policy.replaceAll()
        return turn()
    }

    mutating func resize(_ change: (inout PoolSize) -> Void) -> [String] {
        change(&policy.size)
        return turn()
    }

    mutating func end(_ pid: ProcessID, _ status: Forking.ExitStatus = .exited(code: 0), isServing: Bool = true)
        -> [String]
    {
        let exit = ChildExit(
            pid: pid, peer: nil, status: status, reason: .own, duration: .seconds(1), isLeftover: false, usage: nil,
            execError: nil)
        return carryOut(policy.noteEnd(of: exit, inOrder, isServing: isServing, at: now)!) + (isServing ? turn() : [])
    }

    mutating func stop() -> [String] { carryOut(policy.stop()) }

    mutating func wait(_ time: Duration) -> [String] {
        now = now + time
        return turn()
    }

    /// All are there, and have served something.
    static func serving(_ workers: Int = 2, _ change: (inout PoolPolicy.Rules) -> Void = { _ in }) -> Played {
        var played = Played(workers: workers, change)
        _ = played.turn()
        for pid in played.policy.workers.map(\.pid) {
            _ = played.say(pid) { ($0.isReady, $0.requests) = (true, 1) }
        }
        return played
    }
}

extension WorkerSnapshot {
    fileprivate static func fresh(_ now: Instant) -> WorkerSnapshot {
        WorkerSnapshot(
            isReady: false, wantsToRetire: false, isDraining: false, isBusy: false, hasConnection: false, requests: 0,
            since: now, beat: now)
    }
}

@Suite("Pool policy") struct PoolPolicyTests {
    @Test("the pool serves once all workers are ready") func start() {
        var pool = Played(workers: 2)
        #expect(pool.turn() == ["worker 101 forked, number 0", "worker 102 forked, number 1"])
        #expect(pool.ready(101) == ["worker 101 ready, number 0"])
        #expect(pool.ready(102) == ["worker 102 ready, number 1", "serving"])
        #expect(pool.turn() == [])
    }

    @Test("rollover: each worker drains once its successor is ready, one after the other") func rollover() {
        var pool = Played.serving(2)
        #expect(pool.replaceAll() == ["worker 103 forked, number 2"])
        #expect(
            pool.ready(103) == ["worker 103 ready, number 2", "ask 101", "worker 101 drains: it is being replaced"])
        #expect(pool.end(101) == ["worker 101: exited with status 0 after 1.000 s", "worker 104 forked, number 0"])
        #expect(
            pool.ready(104) == [
                "worker 104 ready, number 0", "ask 102", "worker 102 drains: it is being replaced",
                "all workers were replaced", "reloaded",
            ])
        #expect(pool.end(102) == ["worker 102: exited with status 0 after 1.000 s"])
        #expect(pool.policy.workers.map(\.number) == [2, 0] && !pool.policy.isReplacingAll)
    }

    @Test("a rollover in which a new worker fails ends, and those that are left stay") func failedRollover() {
        var pool = Played.serving(2)
        #expect(pool.replaceAll() == ["worker 103 forked, number 2"])
        let told = pool.end(103, .exited(code: 1))
        #expect(told.contains { $0.hasPrefix("the reload has failed, and the old workers stay: ") }, "\(told)")
        #expect(told.contains("reloaded"), "\(told)")
        #expect(pool.wait(.seconds(60)) == [] && pool.policy.workers.map(\.pid) == [101, 102])
    }

    @Test("a worker that crashes is replaced at once, one that fails at its start only after a while") func crashes() {
        var pool = Played.serving(1)
        #expect(pool.end(101, .signaled(.segmentationFault, dumpedCore: false)).last == "worker 102 forked, number 0")
        let told = pool.end(102, .exited(code: 1))
        #expect(told.count == 1 && told[0].hasSuffix(", before it had served"), "\(told)")
        #expect(pool.wait(.milliseconds(79)) == [], "the first pause is 100 ms, a fifth more or less")
        #expect(pool.wait(.milliseconds(42)) == ["worker 103 forked, number 0"])
    }

    @Test("so many failures in a row, and the pool gives up") func givesUp() {
        var pool = Played(workers: 1) { $0.maxFailures = 3 }
        var told = pool.turn()
        for number in 1...3 {
            told = pool.end(ProcessID(100 + number), .exited(code: 1))
            if number < 3 { _ = pool.wait(.seconds(60)) }
        }
        #expect(told.last == "give up", "\(told)")
    }

    @Test("however many fail at once, the pool gives up once, and tells of the first that was too much")
    func givesUpOnce() {
        var pool = Played(workers: 4) { $0.maxFailures = 2 }
        _ = pool.turn()
        for pid in 101...103 as ClosedRange<ProcessID> { pool.snapshots[pid]!.isDraining = true }
        let told = pool.say(104) { $0.isDraining = true }
        #expect(told.filter { $0 == "give up" }.count == 1, "\(told)")
    }

    @Test("whoever ends, the pool looks at once whether another is wanted") func looksAtOnce() {
        var pool = Played.serving(2)
        let exit = ChildExit(
            pid: 101, peer: nil, status: .exited(code: 0), reason: .own, duration: .seconds(1), isLeftover: false,
            usage: nil, execError: nil)
        let snapshots = pool.policy.workers.map(\.snapshot)
        _ = pool.policy.noteEnd(of: exit, snapshots, isServing: true, at: pool.now)
        #expect(pool.policy.nextLook == pool.now)
        pool.snapshots[101] = nil
        #expect(pool.turn() == ["worker 103 forked, number 0"])
    }

    @Test("a worker that is not ready in time is killed") func notReady() {
        var pool = Played(workers: 1)
        _ = pool.turn()
        #expect(pool.policy.nextLook == pool.now + .seconds(30))
        #expect(pool.wait(.seconds(30)).first == "worker 101 was not ready within startTimeout, and is killed")
        #expect(pool.policy.workers.first.map { if case .killed = $0.state { true } else { false } } == true)
    }

    @Test("a stuck worker gets SIGABRT, then SIGKILL") func stuck() {
        var pool = Played.serving(1) { $0.requestTimeout = .seconds(5) }
        let begun = pool.now
        #expect(pool.say(101) { ($0.isBusy, $0.oldest) = (true, begun) } == [])
        #expect(pool.policy.nextLook == begun + .seconds(5))
        let told = pool.wait(.seconds(5))
        #expect(told.prefix(2) == ["worker 101 has been stuck for 5.000 s, and is ended", "SIGABRT 101"], "\(told)")
        #expect(told.last == "worker 102 forked, number 1", "another serves meanwhile")
        #expect(pool.wait(.seconds(3)).contains("SIGKILL 101"))
    }

    @Test("one that drains too long gets SIGTERM; a request whose timeout leaves it more may go on, once as long again")
    func overdue() {
        var pool = Played.serving(1) { ($0.requestTimeout, $0.drainTimeout) = (.seconds(15), .seconds(10)) }
        let begun = pool.now
        _ = pool.say(101) { ($0.isBusy, $0.oldest, $0.wantsToRetire) = (true, begun, true) }
        #expect(pool.ready(102).contains("ask 101"))
        #expect(pool.wait(.seconds(10)) == [], "its request has five more seconds")
        let newer = pool.now
        #expect(pool.say(101) { $0.oldest = newer } == [], "it serves another one, though it should not")
        #expect(pool.wait(.seconds(5)) == [])
        let told = pool.wait(.seconds(5))
        #expect(told.count == 2 && told[1] == "SIGTERM 101", "\(told)")
        #expect(pool.wait(.seconds(3)) == ["SIGKILL 101"])
    }

    @Test("no more than so many are replaced at the same time") func maxReplacedAtOnce() {
        var pool = Played.serving(4) { $0.maxReplacedAtOnce = 2 }
        #expect(pool.replaceAll().count { $0.contains("forked") } == 2)
        #expect(pool.ready(105).contains("ask 101"))
        #expect(pool.ready(106).contains("ask 102"))
        #expect(pool.turn() == [], "two drain: nobody else is forked")
        #expect(pool.end(101).contains { $0.contains("forked") })
    }

    @Test("a worker more is wanted, then one less") func resized() {
        var pool = Played.serving(1)
        #expect(pool.resize { $0.add() } == ["worker 102 forked, number 1"])
        _ = pool.ready(102)
        #expect(pool.resize { $0.remove() } == ["ask 102", "worker 102 drains: the pool shrinks"])
    }

    @Test("a fork that fails is tried again later, and ends a rollover") func forkFails() {
        var pool = Played.serving(1)
        pool.forks = false
        let told = pool.replaceAll()
        #expect(told.count == 3 && told[0].hasPrefix("no worker could be forked") && told[2] == "reloaded", "\(told)")
        pool.forks = true
        #expect(pool.wait(.seconds(60)) == [], "the old one stays")
    }

    @Test("one that drains of its own, having done nothing, is a failed start, counted once") func drainsAtOnce() {
        var pool = Played(workers: 1) { $0.maxFailures = 2 }
        _ = pool.turn()
        let told = pool.say(101) { ($0.isReady, $0.isDraining) = (true, true) }
        #expect(
            told.contains("worker 101 drains: it got SIGTERM") && !told.contains { $0.contains("forked") }, "\(told)")
        #expect(!pool.end(101).contains("give up"))
    }

    @Test("as the server stops, each end is expected") func stopping() {
        var pool = Played.serving(2)
        #expect(pool.stop() == ["ask 101", "ask 102"])
        #expect(pool.policy.nextLook == nil)
        #expect(pool.end(101, .signaled(.kill, dumpedCore: false), isServing: false).count == 1)
        #expect(pool.policy.workers.map(\.pid) == [102])
    }

    @Test("the weighed that are too large leave, and only ready ones are weighed, every five seconds") func memory() {
        var pool = Played.serving(2) { $0.limitsMemory = true }
        pool.tooLarge = 102
        #expect(pool.wait(.milliseconds(4999)) == [])
        #expect(pool.wait(.milliseconds(1)) == ["weigh 101", "weigh 102"])
        #expect(pool.policy.nextLook == pool.now, "a replacement is needed at once")
        #expect(pool.turn() == ["worker 103 forked, number 2"])
        #expect(pool.ready(103).last == "worker 102 drains: it uses more memory than maxMemoryKiB")
    }
}
