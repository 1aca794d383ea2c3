// SPDX-License-Identifier: Apache-2.0

import CTestSupport
import Forking
import Glibc
import SystemPackage
import TestSupport

let preforkPoolScenarios = Group(
    "prefork-pool",
    Scenario(program: "prefork", descriptors: 64, preforkProgram),
    Scenario(program: "prefork-many-descriptors", descriptors: 1024, preforkProgram),
    Scenario(program: "bound-to-a-core", boundToACore),
    Scenario(
        "prefork-observer-of-its-table", "an observer of its table leaves the pool its own children's ends",
        preforkObserverOfItsTable),
    Scenario("prefork-refusals", "what cannot be is refused before anything is forked", preforkRefusals)
)

/// `scenarios prefork [key=value ...]`: a pool for a test to drive from outside, with clients and signals. It says on
/// stdout what happens, a line each.
private func preforkProgram() throws {
    let settings = Settings(CommandLine.arguments.dropFirst(2))
    let server = try pool(settings)
    server.hooks.beforeFork = { _ in if isThere(settings.text("prepare-file")) { throw Failure("not prepared") } }
    server.hooks.onEvent = { say("\($1)") }
    try server.serve()
    say("workers left: \(server.children.count)")
}

private func isThere(_ path: String?) -> Bool { path.map { access($0, F_OK) == 0 } ?? false }

private func pool(_ settings: Settings) throws -> PreforkServer {
    var configuration = PreforkServer.Configuration()
    configuration.workers = settings.number("workers") ?? 2
    configuration.maxWorkers = settings.number("max")
    configuration.startTimeout = settings.seconds("spawn") ?? configuration.startTimeout
    configuration.maxFailures = settings.number("gives-up")
    configuration.maxRequests = settings.number("requests")
    configuration.maxAge = settings.seconds("age")
    configuration.maxMemoryKiB = settings.number("memory")
    configuration.requestTimeout = settings.seconds("limit")
    configuration.heartbeatTimeout = settings.seconds("heartbeat")
    configuration.replacementDrainTimeout = settings.seconds("replacement-drain")
    configuration.requestUnit = settings.isOff("counts") ? .declared : .connection
    configuration.maxReplacedAtOnce = settings.number("at-once") ?? 1
    configuration.drainTimeout = settings.seconds("drain") ?? .seconds(30)
    configuration.child.killTimeout = settings.seconds("kill") ?? .seconds(30)
    configuration.ioTimeout = settings.seconds("io")
    let listener = try Listener(SocketAddress(parsing: settings.text("address") ?? "127.0.0.1:0"))
    guard let body = settings.text("body") else {
        return try PreforkServer(listener, configuration: configuration) { try obey(&$0, worker: $1) }
    }
    let file = settings.text("file")
    return try PreforkServer(workers: listener, configuration: configuration) { worker in
        try run(body, worker, file: file)
    }
}

/// Worker: a body of each kind.
private func run(_ body: String, _ worker: Worker, file: String?) throws {
    switch body {
    case "accept":
        if isThere(file) { throw Failure("told to fail") }
        worker.notifyReady()
        while var connection = try worker.accept() {
            let request = worker.beginRequest(from: connection.peer)
            try obey(&connection, worker: worker)
            worker.endRequest(request)
        }
    case "late":  // not ready as long as the file is there
        while isThere(file) { usleep(5000) }
        worker.notifyReady()
        while !worker.isDraining { pause() }
    case "never":
        signal(SIGTERM, SIG_IGN)
        while true { pause() }
    case "returns": break
    case "ready-returns": worker.notifyReady()
    case "term":
        kill(getpid(), SIGTERM)
        try expect(worker.isDraining, "it does not drain")
    case "term-stays":
        kill(getpid(), SIGTERM)
        while true { pause() }
    case "beats":
        worker.notifyReady()
        while !isReadable(worker.drainDescriptor.rawValue, within: 0.02) {
            worker.sendHeartbeat()
            if isThere(file) { while now() > 0 {} }
        }
    default: throw Failure("no such body: \(body)")
    }
}

/// Worker: does what the client says, a command a line. What is no command comes back as it is.
private func obey(_ connection: inout Connection, worker: Worker) throws {
    var request: Worker.RequestID?
    while let line = try connection.readLine() {
        let words = String(decoding: line.dropLast(), as: UTF8.self).split(separator: " ").map(String.init)
        var answer = words.joined(separator: " ")
        switch words.first {
        case "crash": try crash(words[1])
        case "throw": throw Failure("the handler's own error")
        case "ignore": signal(Int32(words[1])!, SIG_IGN)
        case "block": setBlocked(SIGABRT, true)
        case "retire": worker.retire()
        case "pid": answer = "\(getpid())"
        case "number": answer = "\(worker.number)"
        case "draining": answer = "\(worker.isDraining) \(isReadable(worker.drainDescriptor.rawValue, within: 0))"
        case "allocate": _ = Unmanaged.passRetained(Hoard(mebibytes: Int(words[1])!))
        case "child": answer = "\(try endOfTerminatedChild()) \(worker.isDraining)"
        case "page": answer = ownPages().map(\.inode).joined(separator: " ")
        case "scribble": answer = "\(scribble(for: Double(words[1])!))"
        case "give-up-root": answer = "\(giveUpRoot())"
        case "outlive-parent": answer = "\(outliveParent())"
        case "ring": answer = "\(ring(for: Double(words[1])!))"
        case "listen-to-bells": answer = "\(listenToBells(for: Double(words[1])!))"
        case "shut-down": answer = "\(worker.listeners.map { shutdown($0.rawValue, Int32(SHUT_RDWR)) })"
        case "read-limit": connection.limitReading(to: .seconds(Double(words[1])!))
        case "be-held": answer = "\(try tracerOfThis())"
        case "end": if let begun = request.take() { worker.endRequest(begun) }
        case "begin": request = worker.beginRequest(from: connection.peer)
        default: break
        }
        try connection.write(answer + "\n")
    }
}

/// Worker: forks a child of its own, sends it SIGTERM, and says how it ended.
private func endOfTerminatedChild() throws -> String {
    var end = "alive"
    let table = try ChildTable(maxChildren: 1, reaping: .pidfd) { end = "\($0.status)" }
    let pid = try table.fork { while true { pause() } }
    table.signal(.terminate, to: pid)
    if try !table.wait(atMost: .seconds(2)) {
        table.signal(.kill, to: pid)
        _ = try table.wait()
        end = "deaf"
    }
    return end
}

/// Starts a process, in a session of its own, that traces this one; its number.
func tracerOfThis() throws -> pid_t {
    let words = try Channel()
    defer { words.close() }
    test_let_others_trace()
    let traced = getpid()
    let tracer = fork()
    if tracer == 0 {
        setsid()
        alarm(120)  // should nobody end it
        words.say(test_trace(traced) == 0 ? 1 : 0)
        _exit(liveOn())
    }
    try expect(try words.hear() == 1, "it cannot be traced")
    return tracer
}

/// Makes a child of the parent's, which ends at once; its number.
func parentsChild() -> pid_t { test_make_parents_child(5) }

private final class Hoard {
    let bytes: [UInt8]
    init(mebibytes: Int) { bytes = [UInt8](repeating: 1, count: mebibytes << 20) }
}

/// The single pages of memory that this process shares with others, which are seats.
private func ownPages() -> [(start: UInt, inode: String)] {
    (contents(of: "/proc/self/maps") ?? "").split(separator: "\n").compactMap { line in
        guard line.contains(" rw-s "), line.contains("/dev/zero") else { return nil }
        let bounds = line.prefix { $0 != " " }.split(separator: "-").map { UInt(String($0), radix: 16)! }
        return bounds[1] - bounds[0] == 4096 ? (bounds[0], String(line.split(separator: " ")[4])) : nil
    }
}

/// Writes rubbish all over them for a while; returns how many there are.
private func scribble(for seconds: Double) -> Int {
    let pages = ownPages()
    let end = now() + seconds
    var random = SystemRandomNumberGenerator()
    while now() < end {
        for page in pages {
            let words = UnsafeMutablePointer<UInt64>(bitPattern: page.start)!
            for index in 0..<512 { words[index] = random.next() }
        }
    }
    return pages.count
}

/// Worker: wakes the parent all the time; returns by how many descriptors.
private func ring(for seconds: Double) -> Int {
    let bells = eventDescriptors()
    let end = now() + seconds
    while now() < end {
        var one: UInt64 = 1
        for bell in bells { _ = write(bell, &one, 8) }
    }
    return bells.count
}

/// Worker: takes what would wake the parent, as far as it can reach it.
private func listenToBells(for seconds: Double) -> Int {
    let bells = eventDescriptors()
    let end = now() + seconds
    while now() < end {
        var sum: UInt64 = 0
        for bell in bells { _ = read(bell, &sum, 8) }
    }
    return bells.count
}

/// To be started by taskset(1).
private func boundToACore() throws {
    try expect(UsableCores.count == 1, "there are \(UsableCores.count) cores")
}

/// Who has an observer of the pool's table is told of each end, and the pool still replaces who has ended.
private func preforkObserverOfItsTable() throws {
    var configuration = PreforkServer.Configuration()
    configuration.workers = 1
    let server = try PreforkServer(
        workers: Listener(SocketAddress(parsing: "127.0.0.1:0")), configuration: configuration
    ) {
        (worker: Worker) in
        worker.notifyReady()
        while try worker.accept() != nil {}
    }
    var (ready, seen, told) = (0, 0, 0)
    server.hooks.onEvent = { server, event in
        if case .ended = event { seen += 1 }
        guard case .ready(let pid, _) = event else { return }
        ready += 1
        if ready == 1 { server.children.signal(.kill, to: pid) } else { server.stop() }
    }
    server.children.onExit = { _ in told += 1 }
    try server.serve()
    try expect((seen, told) == (2, 2), "of 2 ends the pool was told of \(seen), the other of \(told)")
}

/// What cannot be is refused before anything is forked.
private func preforkRefusals() throws {
    func refused(_ word: String, _ change: (inout PreforkServer.Configuration) -> Void) throws {
        var configuration = PreforkServer.Configuration()
        change(&configuration)
        let text = try invalidity {
            _ = try PreforkServer(
                workers: Listener(SocketAddress(parsing: "127.0.0.1:0")), configuration: configuration, body: { _ in })
        }
        try expect(text.contains(word), text)
    }
    try refused("workers is 0") { $0.workers = 0 }
    try refused("workers is 1025") { $0.workers = 1025 }
    try refused("maxWorkers is 3") { ($0.workers, $0.maxWorkers) = (4, 3) }
    try refused("maxReplacedAtOnce") { $0.maxReplacedAtOnce = 0 }
    try refused("maxFailures") { $0.maxFailures = 0 }
    try refused("maxRequests") { $0.maxRequests = 0 }
    try refused("maxMemoryKiB") { $0.maxMemoryKiB = -1 }
    try refused("startTimeout") { $0.startTimeout = .zero }
    try refused("requestTimeout") { $0.requestTimeout = .zero }
    try refused("drain") { $0.drainTimeout = .seconds(-1) }
    try refused("replacementDrainTimeout") { $0.replacementDrainTimeout = .seconds(-1) }
    try refused("meaning of its own") { $0.stopSignals = [.hangup] }
    try refused("SIGKILL") { $0.stopSignals = [.kill] }

    let datagrams = try invalidity {
        _ = try PreforkServer(workers: Listener(SocketAddress(parsing: "127.0.0.1:0"), datagram: true), body: { _ in })
    }
    try expect(datagrams.contains("datagrams"), datagrams)

    let server = try PreforkServer(workers: Listener(SocketAddress(parsing: "127.0.0.1:0")), body: { _ in })
    var forks = 0
    server.hooks.onEvent = { if case .forked = $1 { forks += 1 } }
    server.hooks.beforeFork = { _ in throw Failure("not today") }
    let unprepared = try invalidity { try server.serve() }
    try expect(unprepared.contains("not today") && forks == 0, unprepared)
    try withThread {
        let error = try refusal { try server.serve() }
        try expect("\(error)".contains("thread") && forks == 0, "\(error)")
    }
}
