// SPDX-License-Identifier: Apache-2.0
//
// Limits of children of every kind: forked, spawned, a server's, a pool's. Those of a zygote's calls are elsewhere.

import CForkCore
import Forking
import Glibc
import SystemPackage
import TestSupport

let resourceLimitScenarios = Group(
    "resource-limit",
    Scenario("limits-forked", "a forked child has its limits, and no other has") {
        for way in [ChildTable.Reaping.signal, .pidfd] { try forked(way) }
    },
    Scenario("limits-spawned", "a program has its limits, and not its parent", spawned),
    Scenario("limits-refused", "values and options that make no sense are named", refused),
    Scenario(
        "zygote-of-another", "a zygote whose children cannot have their credentials does not start", calledAsAnother),
    Scenario("limits-served", "a server's child has its limits", served),
    Scenario("limits-worker", "a worker has its limits", worker),
    Scenario(
        "limits-of-calls", "a zygote's calls have its children's options, unless they name limits of their own", calls)
)

private func limits() -> ResourceLimits {
    var limits = ResourceLimits()
    limits.maxOpenFiles = 13
    limits.maxCPUSeconds = 77
    limits.maxMemoryBytes = 256 << 20
    limits.deniesNetwork = true
    return limits
}

private func options() -> ChildOptions {
    var options = ChildOptions()
    options.limits = limits()
    return options
}

/// What a child has in fact: files, CPU seconds, whether memory is bounded, no new privileges, socket(2)'s error.
private func inForce() -> String {
    func soft(_ which: __rlimit_resource) -> rlim_t {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(which.rawValue), &limit)
        return limit.rlim_cur
    }
    let bounded = soft(RLIMIT_AS) < 4 << 30
    var status = ""
    for line in contents(of: "/proc/self/status")?.split(separator: "\n") ?? []
    where line.hasPrefix("NoNewPrivs:") { status = String(line.last!) }
    let made = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    return "\(soft(RLIMIT_NOFILE)) \(soft(RLIMIT_CPU)) \(bounded) \(status) \(made < 0 ? errno : 0)"
}

private let expected = "13 77 true 1 \(EACCES)"

private func forked(_ way: ChildTable.Reaping) throws {
    let recording = try RecordingTable(limit: 2, reaping: way)
    try recording.table.fork(options: options()) { inForce() == expected ? 0 : 1 }
    try recording.table.fork { inForce() == expected ? 1 : 0 }
    try recording.finish()
    try expect(recording.exits.allSatisfy(\.isSuccess), "\(recording.exits)")
}

private func spawned() throws {
    let recording = try RecordingTable(limit: 2, reaping: .pidfd)
    let null = try FileDescriptor.open("/dev/null", .readWrite, options: .closeOnExec)
    let script =
        #"[ "$(ulimit -n) $(ulimit -t) $(ulimit -v)" = "13 77 262144" ] && grep -q 'NoNewPrivs:.1' /proc/self/status"#
    let shell = Program(path: "/bin/sh", arguments: ["sh", "-c", script])
    try recording.table.spawn(shell, on: null, options: options())
    try recording.finish()
    try expect(recording.exits.map(\.status) == [.exited(code: 0)], "\(recording.exits)")
    try recording.table.spawn(shell, on: null)  // nothing of it is left in this process
    try recording.finish()
    try expect(recording.exits.last?.status == .exited(code: 1), "\(recording.exits)")
    try null.close()
}

/// Values that make no sense are named.
private func refused() throws {
    let table = try ChildTable(maxChildren: 1)
    for (name, wrong) in [
        ("maxCPUSeconds", \ResourceLimits.maxCPUSeconds), ("maxMemoryBytes", \.maxMemoryBytes),
        ("maxOpenFiles", \.maxOpenFiles),
    ] {
        var options = ChildOptions()
        options.limits[keyPath: wrong] = 0
        let text = try invalidity { try table.fork(options: options) { 0 } }
        try expect(text == "\(name) is 0, and must be at least 1, or nil for none", text)
    }
    var configuration = PreforkServer.Configuration()
    configuration.child.timeout = .seconds(1)
    func refusal() throws -> String {
        let address = try SocketAddress(parsing: "127.0.0.1:0")
        return try invalidity {
            _ = try PreforkServer(workers: Listener(address), configuration: configuration) { _ in }
        }
    }
    var text = try refusal()
    try expect(text.contains("maxAge") && text.contains("requestTimeout"), text)
    configuration.child = ChildOptions()
    configuration.child.allowsThreads = true
    text = try refusal()
    try expect(text.contains("child.allowsThreads"), text)
    var zygote = Zygote.Configuration()
    zygote.child.containment = .descendants
    text = try invalidity { _ = try Zygote.start(configuration: zygote) { _ in } }
    try expect(text.contains("child.containment"), text)
    zygote.child = ChildOptions()
    zygote.maxChildren = 0
    text = try invalidity { _ = try Zygote.start(configuration: zygote) { _ in } }
    try expect(text == "maxChildren is 0, and must be at least 1", text)
    var pool = PreforkServer.Configuration()
    pool.startTimeout = .zero
    configuration = pool
    text = try refusal()
    try expect(text == "startTimeout is 0.0 seconds, and must be positive", text)
}

/// A zygote whose children cannot be confined as asked does not start: no call would be served.
private func calledAsAnother() throws {
    let recording = try RecordingTable(limit: 1)
    try recording.table.fork {
        setuid(65_534)  // where this is not root, it never could
        var configuration = Zygote.Configuration()
        configuration.child.credentials = Credentials(user: 0, group: 0)
        do {
            let zygote = try Zygote.start(configuration: configuration) { _ in }
            zygote.shutDownAndWait()
            return 1
        } catch {
            return "\(error)".contains("credentials or oomScore cannot be set") ? 0 : 2
        }
    }
    try recording.finish()
    try expect(recording.exits.allSatisfy(\.isSuccess), "\(recording.exits)")
}

private func served() throws {
    var configuration = ForkingServer.Configuration()
    configuration.child.limits = limits()
    let server = try ForkingServer(Listener(SocketAddress(parsing: "127.0.0.1:0")), configuration: configuration) {
        try $0.write(inForce())
    }
    server.hooks.onEvent = { server, event in if case .ended = event { server.stop() } }
    let client = try Client("\(server.address)")
    try server.serve()
    let told = try client.receiveAll()
    try expect(told == expected, told)
}

private func worker() throws {
    var configuration = PreforkServer.Configuration()
    configuration.workers = 1
    configuration.child.limits = limits()
    configuration.child.limits.maxOpenFiles = 30  // a pool's worker has more descriptors of its own
    let server = try PreforkServer(Listener(SocketAddress(parsing: "127.0.0.1:0")), configuration: configuration) {
        connection, worker in
        try connection.write(inForce())
        worker.retire()
    }
    server.hooks.onEvent = { server, event in if case .draining = event { server.stop() } }
    let client = try Client("\(server.addresses[0])")
    try server.serve()
    let told = try client.receiveAll()
    try expect(told == "30" + expected.dropFirst(2), told)
}

private func calls() throws {
    var configuration = Zygote.Configuration()
    configuration.child.limits = limits()
    configuration.child.containment = .session
    configuration.child.timeout = .milliseconds(200)
    let zygote = try Zygote.start(configuration: configuration) { handlers in
        handlers.answer("limits") { _ in Zygote.Reply(Array("\(inForce()) \(getsid(0) == getpid())".utf8)) }
        handlers.answer("hang") { _ in while true { pause() } }
    }
    let told = String(decoding: try zygote.runAndWait("limits").bytes, as: UTF8.self)
    try expect(told == expected + " true", told)
    var own = ResourceLimits()
    own.maxOpenFiles = 17
    let other = String(decoding: try zygote.runAndWait("limits", limits: own).bytes, as: UTF8.self)
    try expect(other.hasPrefix("17 ") && other.contains(" false 0 0 "), other)
    let error = try failure { _ = try zygote.runAndWait("hang") }
    try expect(error.exitStatus == .signaled(.terminate, dumpedCore: false), "\(error)")
    try expect(zygote.shutDownAndWait(), "it was killed")
}
