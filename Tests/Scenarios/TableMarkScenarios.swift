// SPDX-License-Identifier: Apache-2.0
//
// Death marks, which a child can forge, lose by exec, or never set: every end is still told, once, and soon.

import Forking
import Glibc
import SystemPackage
import TestSupport

let tableMarkScenarios = Group(
    "table-mark",
    Scenario(
        "hostile-scribbler", "a child that forges everybody's marks costs nobody an end, and delays none for long",
        hostileScribbler),
    Scenario("programs-are-reaped", "children that execute another program are reaped", programsAreReaped),
    Scenario("killed-at-birth", "children killed before they took their mark are reaped", killedAtBirth),
    Scenario("robust-mutexes-of-children", "a child's own robust mutexes work", robustMutexes),
    Scenario("many-children", "2,000 children at once, 20,000 with FORKING_MANY set", manyChildren)
)

// MARK: A child that forges all marks

/// Child: the memory that it shares with its parent, be it for marks or for anything else.
func sharedMemory() -> [UnsafeMutableBufferPointer<UInt32>] {
    (contents(of: "/proc/self/maps") ?? "").split(separator: "\n").compactMap { line in
        guard line.contains(" rw-s "), line.contains("/dev/zero") else { return nil }
        let bounds = line.prefix { $0 != " " }.split(separator: "-").map { UInt(String($0), radix: 16)! }
        let start = UnsafeMutablePointer<UInt32>(bitPattern: bounds[0])
        return UnsafeMutableBufferPointer(start: start, count: Int(bounds[1] - bounds[0]) / 4)
    }
}

/// A child that forges the marks of all others, and says when it has done as it was told.
private struct Scribbler {
    enum Manner: UInt8 {
        /// Whatever may be taken for news of an end or of a life.
        case rubbish = 1
        case nothing
        /// Each mark as it is now: it hides the ends that come.
        case sameAsNow
        /// As before; it says when all has been written once more.
        case onceMore
    }

    let pid: ProcessID
    private let orders: Channel
    private let answers: Channel

    init(in table: ChildTable) throws {
        let (orders, answers) = (try Channel(), try Channel())
        (self.orders, self.answers) = (orders, answers)
        pid = try table.fork { Self.scribble(orders, answers) }
        orders.closeRead()
        answers.closeWrite()
    }

    func close() {
        orders.closeWrite()
        answers.closeRead()
    }

    func write(_ manner: Manner) throws {
        orders.say(manner.rawValue)
        try expect(try answers.hear() == manner.rawValue, "the scribbler found nothing to scribble on")
    }

    private static func scribble(_ orders: Channel, _ answers: Channel) -> Int32 {
        let memories = sharedMemory()
        if memories.isEmpty { return 1 }
        let parent = getppid()
        var (manner, round) = (Manner.nothing, 0)
        var (kept, living): ([[UInt32]], [UInt32]) = ([], [])
        while true {
            let order = isReadable(orders.ends.read, within: 0) ? try? orders.hear() : nil
            if let order, order != Manner.onceMore.rawValue { manner = Manner(rawValue: order)! }
            if order == Manner.sameAsNow.rawValue { kept = memories.map(Array.init) }
            if manner == .rubbish, round % 600 == 0 {
                living = processes().filter { Process($0)?.parent == parent }.map { UInt32($0) }
            }
            for (number, memory) in memories.enumerated() {
                if manner == .sameAsNow { restore(kept[number], to: memory) }
                if manner == .rubbish { spoil(memory, round, living) }
            }
            if let order { answers.say(order) }
            round += 1
        }
    }

    private static func restore(_ kept: [UInt32], to memory: UnsafeMutableBufferPointer<UInt32>) {
        for index in memory.indices { memory[index] = kept[index] }
    }

    private static func spoil(_ memory: UnsafeMutableBufferPointer<UInt32>, _ round: Int, _ living: [UInt32]) {
        for index in memory.indices {
            switch round % 6 {
            case 0: memory[index] = 0
            case 1: memory[index] = .max
            case 2: memory[index] = 0x4000_0000  // FUTEX_OWNER_DIED
            case 3: memory[index] = UInt32.random(in: 0...(.max))
            case 4: memory[index] = UInt32(getpid())
            default: memory[index] = living.isEmpty ? 0 : living[index % living.count]
            }
        }
    }
}

/// How long the children of a table have waited to be reaped, as seen from outside.
private struct ZombieWatch {
    private var since: [ProcessID: Double] = [:]
    private var next = 0.0
    private(set) var longest = 0.0

    mutating func look(at table: ChildTable) {
        guard now() >= next else { return }
        next = now() + 0.1
        let zombies = table.children.map(\.pid).filter { Process($0)?.isZombie ?? false }
        since = zombies.reduce(into: [:]) { $0[$1] = since[$1] ?? now() }
        longest = max(longest, since.values.map { now() - $0 }.max() ?? 0)
    }
}

private func work() {
    var sum = 0
    for step in 0..<20_000 { sum = sum &* 31 &+ step }
    if sum == 42 { usleep(1) }  // so that it is not left out
}

/// What a table's children are to end with, and whether each did, told once.
private final class Ledger {
    let recording: RecordingTable
    private var codes: [ProcessID: [Int32]] = [:]
    private(set) var count: Int32 = 0

    init(limit: Int) throws { recording = try RecordingTable(limit: limit) }

    @discardableResult
    func fork(_ body: () -> Void) throws -> ProcessID {
        let code = count % 251
        count += 1
        let pid = try recording.table.fork {
            body()
            return code
        }
        codes[pid, default: []].append(code)
        return pid
    }

    /// - Parameter scribbler: was killed.
    func check(but scribbler: ProcessID) throws {
        try expect(recording.exits.count == count + 1, "\(recording.exits.count) exits of \(count + 1) were told")
        for exit in recording.exits where exit.pid != scribbler || exit.status != .signaled(.kill, dumpedCore: false) {
            guard let index = codes[exit.pid]?.firstIndex(where: { exit.status == .exited(code: $0) }) else {
                throw Failure("told of \(exit), which was to end with \(codes[exit.pid] ?? [])")
            }
            codes[exit.pid]!.remove(at: index)
        }
    }
}

/// Forks `count` children, of whom few live at a time.
private func inTurn(_ count: Int, _ ledger: Ledger, _ watch: inout ZombieWatch) throws {
    let table = ledger.recording.table
    let (end, full) = (now() + 60, table.count + 40)
    for _ in 0..<count {
        while table.count >= full {
            if isReadable(table.descriptor.rawValue, within: 0.1) { table.collect() }
            watch.look(at: table)
            try expect(now() < end, "the table stays full; a zombie waits for \(watch.longest) s")
        }
        try ledger.fork(work)
    }
}

/// Forks `count` children that end at the same moment: one SIGCHLD tells of one, and the marks say that the others
/// live.
private func allAtOnce(_ count: Int, _ ledger: Ledger, _ scribbler: Scribbler, _ watch: inout ZombieWatch) throws {
    let table = ledger.recording.table
    // Until no sweep is due any more, which would find them at once.
    while isReadable(table.descriptor.rawValue, within: 1.2) { table.collect() }
    try scribbler.write(.nothing)
    let (others, begun, gate) = (table.count, try Channel(), try Channel())
    let pids = try (0..<count).map { _ in
        try ledger.fork {
            begun.say()
            gate.waitToBeTold()
        }
    }
    for _ in 0..<count { try expect(try begun.hear() == 1, "a child has not begun") }
    try scribbler.write(.sameAsNow)
    gate.close()
    begun.close()
    try eventually("a child lives") { pids.allSatisfy { Process($0)!.isZombie } }
    try scribbler.write(.onceMore)
    table.collect()
    try expect(table.count > others + count / 2, "\(table.count - others) of \(count) ends are hidden")
    let end = now() + 10
    while table.count > others {
        if isReadable(table.descriptor.rawValue, within: 0.1) { table.collect() }
        watch.look(at: table)
        try expect(now() < end, "\(table.count - others) of \(count) that have ended are never found")
    }
}

/// 1,000 children, most of them beside one that forges everybody's marks.
private func hostileScribbler() throws {
    let ledger = try Ledger(limit: 256)
    let recording = ledger.recording
    let (foreign, gate) = (foreignChild(liveOn), try Channel())
    let scribbler = try Scribbler(in: recording.table)
    for _ in 0..<20 { try ledger.fork(gate.waitToBeTold) }
    var watch = ZombieWatch()
    try scribbler.write(.rubbish)
    try inTurn(500, ledger, &watch)
    for _ in 0..<2 { try allAtOnce(100, ledger, scribbler, &watch) }
    try scribbler.write(.rubbish)
    try inTurn(100, ledger, &watch)
    recording.table.signal(.kill, to: scribbler.pid)
    scribbler.close()
    try inTurn(180, ledger, &watch)
    gate.close()
    try recording.finish()
    recording.table.terminateAll()
    try expect(Process(foreign).map { !$0.isZombie } ?? false, "the foreign child was signalled")
    kill(foreign, SIGKILL)
    try expect(waitpid(foreign, nil, 0) == foreign, "somebody reaped the foreign child")
    try expect(watch.longest < 2.5, "a zombie waited for \(watch.longest) s")
    try ledger.check(but: scribbler.pid)
    print("\(ledger.count) children; the oldest zombie was seen for \(watch.longest) s")
}

// MARK: Children that have no mark

/// Exec ends a mark. Those who did so are asked for, be they many behind one SIGCHLD, or doubted.
private func programsAreReaped() throws {
    for doubted in [false, true] {
        let recording = try RecordingTable(limit: 16)
        let (gate, output) = (try Channel(), try Channel())
        for _ in 0..<8 {
            try recording.table.fork {
                gate.closeWrite()
                dup2(gate.ends.read, 0)
                dup2(output.ends.write, 1)
                var arguments = [strdup("cat"), nil]
                execv("/bin/cat", &arguments)
                return 9
            }
        }
        // Each end that is collected asks in vain for those that have become another program.
        for _ in 0..<(doubted ? 50 : 0) {
            let pid = try recording.table.fork { 3 }
            try expectZombie(pid)
            recording.table.collect()
        }
        gate.say()
        try expect(try output.hear() == 1, "no cat")
        try expect(recording.table.count == 8, "a living program was reported: \(recording.exits)")
        let told = recording.exits.count
        gate.closeWrite()
        try eventually("a program does not end") { recording.table.children.allSatisfy { Process($0.pid)!.isZombie } }
        recording.table.collect()
        try expect(doubted || recording.table.count == 0, "\(recording.table.count) have to wait for a sweep")
        try recording.finish(within: .seconds(3))
        try expect(recording.exits.dropFirst(told).allSatisfy(\.isSuccess), "\(recording.exits)")
        try expect(recording.exits.count == told + 8, "\(recording.exits)")
        gate.closeRead()
        output.close()
    }
}

/// Scenarios have one thread.
nonisolated(unsafe) private var diesAtBirth = false

/// A child that is killed before it has taken its mark: libc's handlers come first in a child.
private func killedAtBirth() throws {
    pthread_atfork(nil, nil, { if diesAtBirth { raise(SIGKILL) } })
    diesAtBirth = true
    let recording = try RecordingTable(limit: 100)
    for _ in 0..<100 { try recording.table.fork { 0 } }
    diesAtBirth = false
    try eventually("a child lives") { recording.table.children.allSatisfy { Process($0.pid)!.isZombie } }
    recording.table.collect()
    try expect(recording.table.count == 0, "\(recording.table.count) have to wait for a sweep")
    try expect(recording.exits.count == 100, "\(recording.exits.count) were told")
    try expect(recording.exits.allSatisfy { $0.status == .signaled(.kill, dumpedCore: false) }, "\(recording.exits)")
    try recording.table.fork { 7 }
    try recording.finish()
    try expect(recording.exits.last?.status == .exited(code: 7), "\(recording.exits.last!)")
}

/// A child may hold robust mutexes besides its mark: both tell of its end.
private func robustMutexes() throws {
    let size = 2 * MemoryLayout<pthread_mutex_t>.stride
    let memory = mmap(nil, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0)!
    defer { munmap(memory, size) }
    let mutexes = memory.bindMemory(to: pthread_mutex_t.self, capacity: 2)
    var robust = pthread_mutexattr_t()
    pthread_mutexattr_init(&robust)
    pthread_mutexattr_setpshared(&robust, Int32(PTHREAD_PROCESS_SHARED))
    pthread_mutexattr_setrobust(&robust, Int32(PTHREAD_MUTEX_ROBUST))
    for index in 0..<2 { pthread_mutex_init(mutexes + index, &robust) }
    let recording = try RecordingTable()
    for round in 1...3 {
        let pid = try recording.table.fork {
            for index in 0..<2 where pthread_mutex_lock(mutexes + index) != 0 { return 1 }
            return pthread_mutex_unlock(mutexes)
        }
        try expectZombie(pid)
        recording.table.collect()
        try expect(recording.exits.count == round && recording.exits.last!.isSuccess, "\(recording.exits)")
        try expect(pthread_mutex_trylock(mutexes) == 0, "what the child gave back is held")
        try expect(pthread_mutex_trylock(mutexes + 1) == EOWNERDEAD, "the owner's end did not show")
        for index in 0..<2 {
            pthread_mutex_consistent(mutexes + index)
            pthread_mutex_unlock(mutexes + index)
        }
    }
}

// MARK: Many

/// 2,000 that live at once, or with FORKING_MANY set 20,000, if the machine has numbers for them.
private func manyChildren() throws {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(__RLIMIT_NPROC.rawValue), &limit)
    let wanted = getenv("FORKING_MANY") == nil ? 2000 : 20_000
    let most = contents(of: "/proc/sys/kernel/pid_max").flatMap { Int($0.filter(\.isNumber)) } ?? 32_768
    let memory = (sysconf(Int32(_SC_PHYS_PAGES)) * sysconf(Int32(_SC_PAGESIZE))) >> 30
    let count = min(wanted, Int(min(limit.rlim_cur, 1 << 22)) / 2, most / 2, memory > 6 ? wanted : 1000)
    print("\(count) children")
    let begun = now()
    let recording = try RecordingTable(limit: count)
    let gate = try Channel()
    var codes: [ProcessID: Int32] = [:]
    for number in 0..<count {
        let code = Int32(number % 251)
        let pid = try recording.table.fork {
            gate.waitToBeTold()
            return code
        }
        codes[pid] = code
    }
    try expect(codes.count == count && recording.table.count == count, "not all live at once")
    gate.close()
    let exits = try recording.finish(within: .seconds(60))
    try expect(exits.count == count, "\(exits.count) exits were told")
    for exit in exits { try expect(exit.status == .exited(code: codes[exit.pid] ?? -1), "\(exit)") }
    try expect(now() - begun < (count > 2000 ? 120 : 60), "it took \(now() - begun) s")
}
