// SPDX-License-Identifier: Apache-2.0
//
// Children that ptrace(2) has a hand in, processes that children make ours, and programs that are slow to be executed.

import CTestSupport
import Forking
import Glibc
import SystemPackage
import TestSupport

let tableTraceScenarios = Group(
    "table-trace",
    Scenario(
        "traced-by-its-parent", "a child that has its parent trace it and stops has not ended, and is killed",
        eachWay(tracedByItsParent)),
    Scenario(
        "thread-traced-by-its-parent", "a child with a thread that its parent traces is reaped",
        eachWay(threadTracedByItsParent)),
    Scenario(
        "held-by-a-tracer",
        "children that others trace as they end: nothing spins, it is told once, and they are reaped once let go",
        heldByATracer),
    Scenario(
        "held-by-a-tracer-of-its-group", "a child's limit ends a tracer of its own that holds it",
        eachWay(heldByATracerOfItsGroup)),
    Scenario(
        "strangers", "processes that a child makes its parent's are reaped on request, and nobody else's children",
        eachWay(strangers)),
    Scenario(
        "slow-execve", "programs that are slow to be executed are a shortage, and nobody waits for them", slowExecve),
    Scenario(program: "be-held", beHeld),
    Scenario(program: "make-strangers", makeStrangers)
)

let tableTraceScenariosAsRoot = Group(
    "table-trace-as-root",
    Scenario(
        "not-permitted", "a child that may not be signalled is told of at once",
        eachWay { way in
            for isAlone in [true, false] { try notPermitted(way, isAlone: isAlone) }
        })
)

/// wait(2) tells of its stop as of an end. It is none; and nobody else would ever continue it.
private func tracedByItsParent(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(limit: 1, reaping: way)
    let foreign = foreignChild { 72 }
    try expectZombie(foreign)
    var options = ChildOptions()
    // A pidfd tells of no stop; a limit finds it.
    if way == .pidfd { (options.timeout, options.killTimeout) = (.milliseconds(500), .milliseconds(500)) }
    let pid = try recording.table.fork(options: options) {
        if test_be_traced() != 0 { return 1 }
        raise(SIGSTOP)
        return liveOn()
    }
    try eventually("it does not stop") { Process(pid).map { $0.state != "R" && $0.state != "S" } ?? true }
    let exit = try recording.finishOne()
    try expect(exit.status == .signaled(.kill, dumpedCore: false), "\(exit)")
    try expect(Process(pid) == nil, "it lives, or is a zombie, though its end was told")
    try expectForeign(foreign, endsWith: 72)
}

/// Until the parent has waited for the thread, which has a number of its own, the process cannot be reaped.
private func threadTracedByItsParent(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(limit: 1, reaping: way)
    var options = ChildOptions()
    // A pidfd tells of no such end; a limit finds it.
    if way == .pidfd { (options.timeout, options.killTimeout) = (.milliseconds(300), .milliseconds(100)) }
    try recording.table.fork(options: options) { test_start_traced_thread() == 0 ? 7 : 1 }
    let exit = try recording.finishOne()
    try expect(exit.status == .exited(code: 7), "\(exit)")
}

/// A child that has ended while somebody else traces it, and stays a zombie until that one goes.
private struct Held {
    let pids: [ProcessID]
    private let tracer: pid_t
    private let end: Channel

    init(_ count: Int, in table: ChildTable) throws {
        let (gate, words, end) = (try Channel(), try Channel(), try Channel())
        pids = try (0..<count).map { _ in
            try table.fork {
                test_let_others_trace()
                words.say()
                gate.waitToBeTold()
                return 7
            }
        }
        for _ in pids { _ = try words.hear() }
        let traced = pids
        tracer = foreignChild {
            for pid in traced where test_trace(pid) != 0 { return 1 }
            gate.close()
            words.say(9)
            end.waitToBeTold()
            return 0
        }
        try expect(try words.hear() == 9, "they cannot be traced")
        words.close()
        gate.close()
        self.end = end
        for pid in pids { try expectZombie(pid) }
    }

    func letGo() throws {
        end.close()
        try expectForeign(tracer, endsWith: 0)
    }
}

private func cpuTime() -> Double {
    var usage = rusage()
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    func seconds(_ time: timeval) -> Double { Double(time.tv_sec) + Double(time.tv_usec) / 1e6 }
    return seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// It neither spins, nor is lost, nor taken for gone. It is told once, whoever tells of ends.
private func heldByATracer() throws {
    let recording = try RecordingTable(limit: 17, reaping: .pidfd)
    var troubles: [ChildTrouble] = []
    recording.table.onTrouble = { troubles.append($0) }
    let held = try Held(16, in: recording.table)  // as many as are asked for at a time
    let begun = cpuTime()
    try recording.table.fork { 3 }
    try eventually("another's end is not told") {
        recording.table.collect()
        return recording.exits.count == 1
    }
    let emptied = try recording.table.wait(atMost: .seconds(4))
    try expect(!emptied && recording.table.count == 16, "told of \(recording.exits)")
    try expect(cpuTime() - begun < 1.5, "it took \(cpuTime() - begun) s of a processor")
    try expect(Set(troubles) == Set(held.pids.map { .held($0, peer: nil) }) && troubles.count == 16, "\(troubles)")
    try held.letGo()
    try recording.finish(within: .seconds(30))
    try expect(recording.exits.dropFirst().allSatisfy { $0.status == .exited(code: 7) }, "\(recording.exits)")

    // A table that learns by SIGCHLD is not even sent one; but it finds it as another ends, and once it was to end it.
    for kills in [false, true] {
        let other = try RecordingTable(limit: 2, reaping: .signal)
        troubles = []
        other.table.onTrouble = { troubles.append($0) }
        let one = try Held(1, in: other.table)
        if kills { other.table.killAll() } else { try other.table.fork { 3 } }
        try eventually("it is not found") {
            _ = try? other.table.wait(atMost: .milliseconds(100))
            return !troubles.isEmpty
        }
        let isEmpty = try other.table.wait(atMost: .seconds(2))
        try expect(!isEmpty && troubles == [.held(one.pids[0], peer: nil)], "\(troubles)")
        try one.letGo()
        try other.finish()
        try expect(
            other.exits.map(\.status) == (kills ? [] : [.exited(code: 3)]) + [.exited(code: 7)], "\(other.exits)")
    }
}

/// The limit of a child that is held so ends its tracer, and with that the holding.
private func heldByATracerOfItsGroup(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(reaping: way)
    var options = ChildOptions()
    options.timeout = .seconds(2)
    options.killTimeout = .milliseconds(200)
    let words = try Channel()
    try recording.table.fork(options: options) {
        test_let_others_trace()
        let traced = getpid()
        if fork() == 0 {
            signal(SIGTERM, SIG_IGN)
            if test_trace(traced) == 0 { words.say() }
            _exit(liveOn())
        }
        _ = try? words.hear()
        return 7
    }
    let exit = try recording.finishOne()
    try expect(exit.status == .exited(code: 7) && exit.reason == .timeout, "\(exit)")
    words.close()
}

/// What a child makes ours is reaped on request, and nobody else's child.
private func strangers(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(limit: 2, reaping: way)
    let others = try RecordingTable(limit: 2, reaping: way == .signal ? .pidfd : .signal)
    func makeStrangers() throws -> [pid_t] {
        let words = try Channel()
        defer { words.close() }
        try recording.table.fork {
            let made = (0..<20).map { _ in test_make_parents_child(5) }
            made.withUnsafeBytes { _ = write(words.ends.write, $0.baseAddress, $0.count) }
            return liveOn()
        }
        var made = [pid_t](repeating: 0, count: 20)
        try expect(isReadable(words.ends.read, within: 20), "no strangers")
        try made.withUnsafeMutableBytes {
            try expect(read(words.ends.read, $0.baseAddress, $0.count) == 80, "fewer strangers")
        }
        for pid in made { try expectZombie(pid) }
        return made
    }
    let unasked = try makeStrangers()
    let deadline = now() + 2.5
    while now() < deadline { _ = try recording.table.wait(atMost: .milliseconds(200)) }
    for pid in unasked { try expectForeign(pid, endsWith: 5) }
    try recording.table.reapStrangers()
    try others.table.fork { 4 }
    let asked = try makeStrangers()
    try eventually("strangers are left") {
        _ = try? recording.table.wait(atMost: .milliseconds(100))
        return asked.allSatisfy { Process($0) == nil }
    }
    let exits = try others.finish()
    try expect(exits.map(\.status) == [.exited(code: 4)], "another table's child was taken from it: \(exits)")
    recording.table.killAll()
    try recording.finish()
}

/// Eight that are slow to be executed are a shortage, and nobody waits for them.
private func slowExecve() throws {
    let recording = try RecordingTable(limit: 16, reaping: .pidfd)
    let null = try FileDescriptor.open("/dev/null", .readWrite, options: .closeOnExec)
    var low: Int32 = -1
    let code = test_hold_execve(&low)
    try expect(code == 0, "seccomp: \(Errno(rawValue: code))")
    let descriptor = fcntl(low, F_DUPFD_CLOEXEC, 28)
    close(low)
    let program = Program(path: "/bin/true", arguments: ["true"])
    for _ in 0..<8 { try recording.table.spawn(program, on: null) }
    let asked = now()
    let error = try refusal { try recording.table.spawn(program, on: null) }
    try expect(now() - asked < 10, "it was waited for")
    try expect(error == .crowded, "\(error)")
    try expect(recording.table.count == 8, "a refused one keeps a place")
    let begun = cpuTime()
    let emptied = try recording.table.wait(atMost: .seconds(1))
    try expect(!emptied && cpuTime() - begun < 0.5, "it took \(cpuTime() - begun) s of a processor")
    var went = 0
    try eventually("they are not let go") {
        went += Int(test_let_execve_go(descriptor))
        return went == 8
    }
    try recording.finish()
    try expect(recording.exits.allSatisfy(\.isSuccess) && recording.exits.count == 8, "\(recording.exits)")
    close(descriptor)
    try null.close()
}

/// A child that this process may not signal: as one of root's, for somebody who gave up root. Of its group another may
/// be.
private func notPermitted(_ way: ChildTable.Reaping, isAlone: Bool) throws {
    guard getuid() == 0 else { return }
    let recording = try RecordingTable(reaping: way)
    var troubles: [ChildTrouble] = []
    recording.table.onTrouble = { troubles.append($0) }
    let ready = try Channel()
    let pid = try recording.table.fork {
        signal(SIGUSR1, SIG_IGN)
        guard !isAlone else {
            ready.say()
            return liveOn()
        }
        _ = foreignChild {
            guard setuid(65_534) == 0 else { return 1 }
            ready.say()
            return liveOn()
        }
        return liveOn()
    }
    _ = try ready.hear()
    ready.close()
    try expect(setreuid(65_534, 0) == 0 && seteuid(65_534) == 0, "root cannot become nobody")
    try expect(!recording.table.signal(.userDefinedOne, to: pid, group: true), "it was signalled")
    recording.table.terminateAll()
    recording.table.collect()
    try expect(troubles == [.notPermitted(pid, peer: nil)], "\(troubles)")
    try expect(seteuid(0) == 0 && setreuid(0, 0) == 0, "nobody cannot become root again")
    recording.table.killAll()
    let exit = try recording.finishOne()
    try expect(exit.status == .signaled(.kill, dumpedCore: false) && troubles.count == 1, "\(exit), \(troubles)")
}

// MARK: Programs for forkserve to run

/// Ends while a process of its own, in another session, traces it; says that one's number, and its own.
private func beHeld() throws {
    let words = try Channel()
    test_let_others_trace()
    let traced = getpid()
    if fork() == 0 {
        setsid()
        alarm(120)  // should nobody end it
        for descriptor in Int32(0)...2 { dup2(words.ends.write, descriptor) }  // not the client's connection
        words.say(test_trace(traced) == 0 ? 1 : 0)
        _exit(liveOn())
    }
    try expect(try words.hear() == 1, "it cannot be traced")
    say("\(children(of: traced)[0]) \(traced)")
    _exit(0)
}

func children(of parent: pid_t) -> [pid_t] { processes().filter { Process($0)?.parent == parent } }

/// Makes processes its parent's children, and waits for its client.
private func makeStrangers() throws {
    for _ in 0..<50 { try expect(test_make_parents_child(5) > 0, "clone") }
    say("made")
    var byte: UInt8 = 0
    _ = read(0, &byte, 1)
    _exit(0)
}
