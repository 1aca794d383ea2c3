// SPDX-License-Identifier: Apache-2.0
//
// Every end is noticed, once, and told as it was.

import Forking
import Glibc
import SystemPackage
import TestSupport

let tableReapingScenarios = Group(
    "table-reaping",
    Scenario("coalesced-exits", "100 exits coalesced into one SIGCHLD", coalescedExits),
    Scenario("exit-before-recorded", "exit before the parent has recorded the pid", eachWay(exitBeforeRecorded)),
    Scenario("many-fast-exits", "many fast exits in a table that is always full", eachWay(manyFastExits)),
    Scenario("told-as-it-was", "exit code, signal and trap are told, with duration", eachWay(toldAsItWas)),
    Scenario("core-flag", "the core flag is told", coreFlag),
    Scenario("resource-usage", "CPU time and memory are told", resourceUsage),
    Scenario("stopped-child", "a SIGSTOPped child is not reported as ended, and can be ended", eachWay(stoppedChild)),
    Scenario("table-goes-away", "a table that goes away leaves its children alone", eachWay(tableGoesAway)),
    Scenario("no-growth", "10,000 forks leave memory and descriptors as they were") {
        try noGrowth(.signal, children: 10_000)
    },
    Scenario("no-growth-with-pidfds", "2,000 forks with pidfds leave memory and descriptors as they were") {
        try noGrowth(.pidfd, children: 2000)
    }
)

/// The kernel merges SIGCHLDs: 100 exits that happen while nobody looks give one signal.
private func coalescedExits() throws {
    var ended: [ChildExit] = []
    let table = try ChildTable(maxChildren: 100)
    table.onExit = { ended.append($0) }
    let gate = try Channel()
    for code in 0..<100 {
        try table.fork {
            gate.waitToBeTold()
            return Int32(code)
        }
    }
    gate.close()
    try eventually("not all have exited") { table.children.allSatisfy { Process($0.pid)!.isZombie } }
    table.collect()
    try expect(table.count == 0, "\(table.count) left in the table")
    let codes = Set(ended.map(\.status))
    try expect(codes == Set((0..<100).map { .exited(code: $0) }), "not every status was told")
}

/// Where `exitBeforeRecorded` waits inside fork(2), in the parent, until the child has ended.
private let waitInsideFork: Bool = {
    pthread_atfork(
        nil,
        {
            var info = siginfo_t()
            waitid(P_ALL, 0, &info, WEXITED | WNOWAIT)
        }, nil)
    return true
}()

/// The child has ended, and its signal has come, before the parent knows its pid.
private func exitBeforeRecorded(_ way: ChildTable.Reaping) throws {
    try expect(waitInsideFork, "no handler")
    let recording = try RecordingTable(reaping: way)
    for code in Int32(1)...3 {
        let pid = try recording.table.fork { code }
        try expect(Process(pid)!.isZombie, "the child was to have ended")
        // At once: not when a sweep finds what was overlooked.
        try expect(isReadable(recording.table.descriptor.rawValue, within: 0), "nobody was told of the exit")
        recording.table.collect()
        try expect(recording.exits.last?.pid == pid, "another than \(pid) was told: \(recording.exits)")
        try expect(recording.exits.last?.status == .exited(code: code), "\(recording.exits)")
        try expect(recording.table.count == 0, "it still stands in the table")
    }
}

/// Children that end faster than they are collected, in a table that is always full.
private func manyFastExits(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(limit: 8, reaping: way)
    let begun = now()
    var forked: [ProcessID] = []
    while forked.count < 500 {
        while !recording.table.isFull, forked.count < 500 {
            let code = Int32(forked.count % 251)
            forked.append(try recording.table.fork { code })
        }
        try expect(isReadable(recording.table.descriptor.rawValue, within: 10), "no exit was noticed")
        recording.table.collect()
    }
    let exits = try recording.finish()
    try expect(exits.count == 500, "\(exits.count) exits of 500 were told")
    let codes = Dictionary(grouping: exits, by: \.status).mapValues(\.count)
    try expect(codes.allSatisfy { [1, 2].contains($0.value) } && codes.count == 251, "wrong statuses: \(codes)")
    try expect(now() - begun < 30, "exits waited for a sweep: \(now() - begun) s")
}

private func toldAsItWas(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(reaping: way)
    let begun = now()
    let coded = try recording.table.fork { 42 }
    let killed = try recording.table.fork(liveOn)
    try expect(recording.table.signal(.userDefinedTwo, to: killed), "the signal was not sent")
    let trapped = try recording.table.fork {
        dup2(open("/dev/null", O_WRONLY), 2)
        let none: [Int] = []
        return Int32(none[Int(getpid())])
    }
    let exits = try recording.finish()
    try expect(Set(exits.map(\.pid)) == [coded, killed, trapped], "told of \(exits)")
    for exit in exits {
        try expect(exit.reason == .own && exit.usage != nil && exit.peer == nil, "\(exit)")
        let elapsed = Duration.seconds(now() - begun)
        try expect(exit.duration > .zero && exit.duration <= elapsed, "lived \(exit.duration) of \(elapsed)")
        switch exit.pid {
        case coded: try expect(exit.status == .exited(code: 42) && !exit.isSuccess, "\(exit)")
        case killed: try expect(exit.status == .signaled(.userDefinedTwo, dumpedCore: false), "\(exit)")
        default:
            guard case .signaled(let signal, _) = exit.status, [.illegalInstruction, .trap].contains(signal) else {
                throw Failure("a trap ended as \(exit)")
            }
        }
    }
    try expect(!recording.table.signal(.kill, to: coded), "a signal was sent to a pid that was reaped")
}

/// Where the kernel writes cores to the working directory; elsewhere only their absence is looked at.
private func coreFlag() throws {
    var limit = rlimit()
    let kind = __rlimit_resource_t(RLIMIT_CORE.rawValue)
    getrlimit(kind, &limit)
    let pattern = contents(of: "/proc/sys/kernel/core_pattern") ?? "|"
    let canDump = limit.rlim_max > 1 << 20 && !pattern.hasPrefix("|") && !pattern.contains("/")

    var template = Array("/tmp/forking-core-XXXXXX".utf8CString)
    try expect(mkdtemp(&template) != nil, "mkdtemp failed")
    let directory = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    defer {
        for name in entries(of: directory) { unlink(directory + "/" + name) }
        rmdir(directory)
    }
    let recording = try RecordingTable()
    for size in canDump ? [0, rlim_t(1 << 20)] : [0] {
        try recording.table.fork {
            chdir(directory)
            var limit = limit
            limit.rlim_cur = size
            setrlimit(kind, &limit)
            abort()
        }
        try recording.finish()
        let status = recording.exits.last?.status
        try expect(status == .signaled(.abort, dumpedCore: size > 0), "with cores of \(size): \(recording.exits)")
    }
}

private func resourceUsage() throws {
    let recording = try RecordingTable()
    try recording.table.fork {
        // 200 ms of CPU, nearly all in user mode, and 32 MiB touched
        let size = 32 << 20
        let memory = UnsafeMutableRawPointer.allocate(byteCount: size, alignment: 4096)
        memset(memory, 1, size)
        var spent = timespec()
        var round = 0
        repeat {
            for index in 0..<size / 64 where index % 3 == round % 3 {
                memory.storeBytes(of: UInt8(truncatingIfNeeded: index), toByteOffset: index, as: UInt8.self)
            }
            round += 1
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent)
        } while spent.tv_sec == 0 && spent.tv_nsec < 200_000_000
        return 0
    }
    let exit = try recording.finishOne()
    try expect(exit.isSuccess, "\(exit)")
    guard let usage = exit.usage else { throw Failure("no usage was told") }
    try expect(usage.userTime > .milliseconds(50), "user time \(usage)")
    try expect(usage.userTime + usage.systemTime > .milliseconds(150), "CPU time \(usage)")
    try expect(usage.systemTime < usage.userTime, "mostly system time \(usage)")
    try expect(usage.maxResidentKiB > 32 << 10 && usage.maxResidentKiB < 1 << 20, "memory \(usage)")
    // Where the kernel gives it huge pages, 32 MiB are few faults.
    try expect(usage.minorFaults > 4 && usage.minorFaults < 1 << 20, "faults \(usage)")
    try expect(exit.duration > .milliseconds(150) && exit.duration < .seconds(60), "\(exit.duration)")
}

/// SIGCHLD also tells of a stop, which is no end.
private func stoppedChild(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(reaping: way)
    var options = ChildOptions()
    options.killTimeout = .seconds(10)
    let pid = try recording.table.fork(options: options, liveOn)
    recording.table.signal(.stop, to: pid)
    try eventually("the child does not stop") { Process(pid)?.state == "T" }
    let emptied = try recording.table.wait(atMost: .milliseconds(100))
    try expect(!emptied && recording.table.count == 1, "the stopped child was reported: \(recording.exits)")
    try expect(Process(pid)?.state == "T", "the stopped child was touched")

    recording.table.terminate(pid)
    let exit = try recording.finishOne()
    try expect(exit.status == .signaled(.terminate, dumpedCore: false) && exit.reason == .stopped, "\(exit)")
}

/// Its children live on, and are whoever's who wants to wait for them.
private func tableGoesAway(_ way: ChildTable.Reaping) throws {
    let gate = try Channel()
    var table: ChildTable? = try ChildTable(maxChildren: 2, reaping: way) { _ in fatalError("no one collects") }
    let living = try table!.fork {
        gate.waitToBeTold()
        return 7
    }
    let ended = try table!.fork { 8 }
    try expectZombie(ended)
    table = nil
    try expect(Process(living).map { !$0.isZombie } ?? false, "the table took a child with it")
    gate.close()
    try expectForeign(living, endsWith: 7)
    try expectForeign(ended, endsWith: 8)
    try expect(!isBlocked(SIGCHLD), "SIGCHLD stays blocked")
}

private func noGrowth(_ way: ChildTable.Reaping, children: Int) throws {
    func residentKiB() -> Int {
        let pages = contents(of: "/proc/self/statm")!.split(separator: " ")[1]
        return Int(pages)! * sysconf(Int32(_SC_PAGESIZE)) / 1024
    }
    var ended = 0
    let table = try ChildTable(maxChildren: 4, reaping: way) { _ in ended += 1 }
    func run(_ count: Int) throws {
        for _ in 0..<count {
            try table.fork { 0 }
            let emptied = try table.wait(atMost: .seconds(20))
            try expect(emptied, "a child is left")
        }
    }
    try run(500)
    let (memory, descriptors) = (residentKiB(), openDescriptors())
    try run(children)
    let grown = residentKiB() - memory
    try expect(ended == 500 + children, "\(ended) exits were told")
    try expect(grown < 512, "memory has grown by \(grown) KiB")
    try expect(openDescriptors() == descriptors, "descriptors: \(descriptors), now \(openDescriptors())")
}
