// SPDX-License-Identifier: Apache-2.0
//
// The hosts that `forkbench zygote` measures: processes that have jobs done in others. Each measures one method once,
// and is started for that alone, as what a host has done before (threads, Tasks) is what makes forking from it unsafe.

import CForkbench
import Forking
import Glibc

/// What one host is to do, as `forkbench zygote` says it: `METHOD WORK HEAP-MIB THREADS CALLS SECONDS PAUSE-US CALLERS
/// [PROGRAM]`.
struct HostPlan {
    let method: String
    let work: String
    let heapMiB: Int
    let threads: Int
    let calls: Int
    let seconds: Double
    /// The pause between a caller's calls, in microseconds.
    let pause: UInt32
    /// The number of threads that call.
    let callers: Int
    /// What the methods that start a program start: it answers on stdout what it reads on stdin.
    let program: [String]

    init?(_ arguments: [String]) {
        guard arguments.count >= 8, let heapMiB = Int(arguments[2]), let threads = Int(arguments[3]),
            let calls = Int(arguments[4]), let seconds = Double(arguments[5]), let pause = UInt32(arguments[6]),
            let callers = Int(arguments[7])
        else { return nil }
        (method, work) = (arguments[0], arguments[1])
        (self.heapMiB, self.threads, self.calls, self.seconds) = (heapMiB, threads, calls, seconds)
        (self.pause, self.callers) = (pause, callers)
        // What is written in Swift needs a program in Swift: this one.
        program = arguments.count > 8 ? [arguments[8]] : ["/proc/self/exe", "answer", work]
    }
}

/// A host's whole life.
public enum Host {
    /// - Parameters:
    ///   - works: jobs that this host can have done, besides those that every host can.
    ///   - methods: methods that this host has, besides those that every host has.
    ///   - keepBusy: starts so many busy threads, and returns when all are at work. Nil: this host has none.
    public static func run(
        works: [String: Work] = [:], methods: [AwaitedMethod] = [], keepBusy: ((Int) throws -> Void)? = nil
    ) -> Never {
        let arguments = Array(CommandLine.arguments.dropFirst())
        let works = Works.all.merging(works) { $1 }
        do {
            if arguments.count == 2, arguments[0] == "answer", let work = works[arguments[1]] {
                try answer(work)
            } else if let plan = HostPlan(arguments), let work = works[plan.work],
                plan.threads == 0 || keepBusy != nil
            {
                try measure(plan, work, methods, keepBusy)
            } else {
                throw HostFailure("this is started by forkbench zygote, and does nothing by itself")
            }
        } catch {
            complain("\(error)")
            exit(1)
        }
        exit(0)
    }

    /// As a program that is started for one job.
    private static func answer(_ work: Work) throws {
        let output = try withdrawOutput()
        try writeAll(work(readAll(STDIN_FILENO)), to: output)
    }

    private static func measure(
        _ plan: HostPlan, _ work: @escaping Work, _ methods: [AwaitedMethod], _ keepBusy: ((Int) throws -> Void)?
    ) throws {
        let output = try withdrawOutput()  // the zygote's, too
        // What its own code needs, a process that forks has had once before, for its children to find it done; but no
        // threads.
        let warmUp = { if plan.work != Works.task { _ = work(CallTally.request) } }
        // Before anything else, as in a user's main.
        let own = [ZygoteMethod.name, ZygoteMethod.warmName, OverlappingMethod.name, IsolateMethod.name]
        let awaited = methods.first { $0.name == plan.method }
        let zygote =
            own.contains(plan.method) || awaited != nil
            ? try startZygote(work, warmUp, awaited, isWarm: plan.method == ZygoteMethod.warmName) : nil
        signal(SIGPIPE, SIG_IGN)  // a child that has ended is a failed call
        try check("mmap", forkbench_occupy(plan.heapMiB << 20))
        if plan.threads > 0 { try keepBusy?(plan.threads) }
        let before = processorTime()
        var tally = CallTally(plan)
        switch plan.method {
        case ZygoteMethod.name, ZygoteMethod.warmName: tally.measure(ZygoteMethod(zygote!))
        case IsolateMethod.name: tally.measure(try IsolateMethod(zygote!))
        case OverlappingMethod.name: tally.measure(OverlappingMethod(zygote!))
        case ForkMethod.name:
            warmUp()
            tally.measure(ForkMethod(work))
        case SpawnMethod.name: tally.measure(SpawnMethod(plan.program))
        case SubprocessMethod.name: tally = try SubprocessMethod(plan.program).measured(tally)
        default:
            guard let awaited else { throw HostFailure("'\(plan.method)' is no method of this host") }
            tally = try awaited.measured(tally, zygote!)
        }
        if let failure = tally.failure { complain(failure) }
        // The children's time is known when the zygote, which waited for them, has ended and been waited for. Busy
        // threads' time is not the calls'.
        zygote?.shutDownAndWait(timeout: .seconds(1))
        let spent = plan.threads == 0 ? (processorTime() - before) / Double(max(1, tally.calls)) : 0
        try writeAll(Array("\(tally.line) \(spent)\n".utf8), to: output)
    }

    /// In microseconds: of this process, and of those that it has waited for.
    private static func processorTime() -> Double {
        [RUSAGE_SELF.rawValue, RUSAGE_CHILDREN.rawValue].reduce(0) { sum, who in
            var usage = rusage()
            getrusage(__rusage_who_t(who), &usage)
            return [usage.ru_utime, usage.ru_stime].reduce(sum) { $0 + Double($1.tv_sec) * 1e6 + Double($1.tv_usec) }
        }
    }

    private static func startZygote(
        _ work: @escaping Work, _ warmUp: @escaping () -> Void, _ awaited: AwaitedMethod?, isWarm: Bool
    ) throws -> Zygote {
        var hooks = Zygote.Hooks()
        hooks.beforeFork = warmUp
        var configuration = Zygote.Configuration()
        if let wanted = getenv("FORKBENCH_WARM") {  // to find the best number
            configuration.warmChildren = Int(String(cString: wanted)) ?? 0
        }
        if !isWarm { configuration.warmChildren = 0 }
        return try Zygote.start(configuration: configuration, hooks: hooks) { handlers in
            handlers.answer("work") { Zygote.Reply(work($0.bytes)) }
            awaited?.register(&handlers, work)
            handlers.isolate("works") { _ in { Zygote.Reply(work($0.bytes)) } }
        }
    }

    /// What the jobs print goes to /dev/null from now on. Returns where stdout went.
    private static func withdrawOutput() throws -> Int32 {
        let output = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
        let null = open("/dev/null", O_WRONLY | O_CLOEXEC)
        guard output >= 0, null >= 0, dup2(null, STDOUT_FILENO) >= 0 else { throw HostFailure(call: "dup2") }
        close(null)
        return output
    }

    private static func complain(_ line: String) {
        try? writeAll(Array((line + "\n").utf8), to: STDERR_FILENO)
    }
}

/// What a call has come to.
struct CallTally {
    /// Then it is a hang, and who has not answered is killed.
    static let patience = Duration.seconds(2)
    private static let mostHangs = 10
    private static let mostFailures = 10
    /// These are slower, whatever the method, and say nothing: they are counted, but not timed.
    private static let warmUp = 3

    static let request: [UInt8] = Array("0123456789abcdef".utf8)

    private let plan: HostPlan
    private var begun = ContinuousClock.now
    private(set) var calls = 0
    private var hangs = 0
    private var failed = 0
    private(set) var failure: String?
    private var latencies: [Duration] = []
    private var end = ContinuousClock.now

    init(_ plan: HostPlan) {
        self.plan = plan
        latencies.reserveCapacity(plan.calls)
    }

    var isDone: Bool {
        latencies.count >= plan.calls / plan.callers || hangs >= Self.mostHangs || failed >= Self.mostFailures
            || calls > 0 && ContinuousClock.now - begun > .seconds(plan.seconds)
    }

    /// - Parameter call: one that began then, and is over: what it made is gone.
    mutating func add(_ call: Result<CallAnswer?, any Error>, from start: ContinuousClock.Instant) {
        calls += 1
        switch call {
        case .success(nil): hangs += 1
        case .success(let answer?) where answer.bytes == Self.request:
            if calls > Self.warmUp { latencies.append(answer.at - start) }
        case .success(let answer?): fail("the answer was wrong: \(answer.bytes.count) bytes")
        case .failure(let error): fail("\(error)")
        }
        end = .now
        if calls == Self.warmUp { begun = end }
    }

    private mutating func fail(_ why: String) {
        failed += 1
        failure = failure ?? why
    }

    /// Each caller calls until its share is done.
    mutating func measure(_ method: some CallMethod) {
        var all = [CallTally](repeating: self, count: plan.callers)
        all.withUnsafeMutableBufferPointer { tallies in
            nonisolated(unsafe) let (tallies, method) = (tallies, method)
            let threads = (1..<max(1, plan.callers)).map { index in Caller { tallies[index].call(method) } }
            tallies[0].call(method)
            threads.forEach { $0.join() }
        }
        self = CallTally(all)
    }

    /// The calls of all callers; there is at least one.
    init(_ all: [CallTally]) {
        self = all[0]
        for other in all.dropFirst() { merge(other) }
    }

    var callers: Int { plan.callers }
    var pause: UInt32 { plan.pause }

    private mutating func call(_ method: some CallMethod) {
        while !isDone {
            let start = ContinuousClock.now
            add(Result { try method.call(Self.request) }, from: start)
            if plan.pause > 0 { usleep(plan.pause) }
        }
    }

    private mutating func merge(_ other: CallTally) {
        calls += other.calls
        hangs += other.hangs
        failed += other.failed
        failure = failure ?? other.failure
        latencies += other.latencies
        begun = min(begun, other.begun)
        end = max(end, other.end)
    }

    /// For `forkbench zygote`: calls, hangs, failures, p50 and p99 in µs, calls a second, and then processor time in µs
    /// for each call. The three before that are 0 if no call was answered.
    var line: String {
        let sorted = latencies.sorted()
        func quantile(_ share: Double) -> Double {
            sorted.isEmpty ? 0 : sorted[min(sorted.count - 1, Int(share * Double(sorted.count)))].inMicroseconds
        }
        let time = (end - begun).inMicroseconds / 1e6
        let rate = sorted.isEmpty ? 0 : Double(sorted.count) / time
        return "\(calls) \(hangs) \(failed) \(quantile(0.5)) \(quantile(0.99)) \(rate)"
    }
}

extension Duration {
    fileprivate var inMicroseconds: Double {
        Double(components.seconds) * 1e6 + Double(components.attoseconds) / 1e12
    }
}

/// A thread that calls.
private final class Caller: @unchecked Sendable {
    private var handle = pthread_t()
    private let body: @Sendable () -> Void

    init(_ body: @escaping @Sendable () -> Void) {
        self.body = body
        let start: @convention(c) (UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? = {
            Unmanaged<Caller>.fromOpaque($0!).takeRetainedValue().body()
            return nil
        }
        let code = pthread_create(&handle, nil, start, Unmanaged.passRetained(self).toOpaque())
        precondition(code == 0, "no thread for a caller: \(code)")
    }

    func join() { pthread_join(handle, nil) }
}

/// Why a host cannot go on, or a call had no answer.
struct HostFailure: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }

    /// For a call that has just failed.
    init(call: String) { self.init("\(call): \(String(cString: strerror(errno)))") }
}

/// Throws what a C function returned.
func check(_ call: String, _ code: Int32) throws {
    guard code == 0 else { throw HostFailure("\(call): \(String(cString: strerror(code)))") }
}
