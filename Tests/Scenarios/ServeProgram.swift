// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import TestSupport

/// What the program was asked for.
struct Settings {
    private let values: [Substring: Substring]

    init(_ arguments: some Sequence<String>) {
        values = Dictionary(
            uniqueKeysWithValues: arguments.map { argument in
                let parts = argument.split(separator: "=", maxSplits: 1)
                return (parts[0], parts[1])
            })
    }

    func text(_ key: Substring) -> String? { values[key].map(String.init) }
    func number(_ key: Substring) -> Int? { values[key].flatMap { Int($0) } }
    func seconds(_ key: Substring) -> Duration? { values[key].flatMap { Double($0) }.map { .seconds($0) } }
    func isOn(_ key: Substring) -> Bool { values[key] == "yes" }
    func isOff(_ key: Substring) -> Bool { values[key] == "no" }
}

/// A line on stdout past its buffer, which other tests look at.
func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    _ = write(1, bytes, bytes.count)
}

/// `scenarios serve [key=value ...]`: a server for a test to drive from outside, with clients and signals. It says on
/// stdout what happens, a line each.
func serveProgram() throws {
    let settings = Settings(CommandLine.arguments.dropFirst(2))
    let inherited = openDescriptors()
    let shortage = try settings.text("shortage").map(Shortage.init(of:))
    if settings.isOn("deaf") { try closeReaderOfErrors() }
    do {
        let server = try server(settings, inherited: inherited)
        addHooks(settings, to: server)
        server.hooks.signals[.userDefinedOne] = { _ in shortage?.begin() }
        server.hooks.signals[.userDefinedTwo] = { _ in shortage?.end() }
        if settings.isOn("unflushed") { print("the parent's unflushed bytes", terminator: " ") }
        try server.serve()
    }
    shortage?.over()
}

private func server(_ settings: Settings, inherited: [Int]) throws -> ForkingServer {
    var configuration = ForkingServer.Configuration()
    configuration.maxChildren = settings.number("max") ?? configuration.maxChildren
    configuration.idleTimeout = settings.seconds("idle")
    configuration.child.timeout = settings.seconds("limit")
    configuration.ioTimeout = settings.seconds("io")
    configuration.drainTimeout = settings.seconds("drain") ?? .seconds(30)
    configuration.child.killTimeout = settings.seconds("kill") ?? .seconds(30)
    configuration.noDelay = settings.isOn("nodelay")
    configuration.child.diesWithParent = !settings.isOff("tied")
    configuration.child.printsCrashBacktrace = settings.isOn("backtraces")
    configuration.maxDatagramBytes = settings.number("datagram") ?? configuration.maxDatagramBytes
    let address = try SocketAddress(parsing: settings.text("address") ?? "127.0.0.1:0")
    let isDatagram = settings.isOn("datagrams")
    let listener = try Listener(address, datagram: isDatagram)
    if isDatagram {
        return try ForkingServer(datagrams: listener, configuration: configuration, handler: answer)
    }
    let box = Box<ForkingServer>()
    let server = try ForkingServer(listener, configuration: configuration) { connection in
        try obey(&connection, server: box.value!, inherited: inherited)
    }
    box.value = server
    return server
}

/// What a closure may look at that is made before its target.
final class Box<Target: AnyObject> {
    weak var value: Target?
}

private func addHooks(_ settings: Settings, to server: ForkingServer) {
    var turns = 0
    var clients = 0
    server.hooks.onTurn = { _ in turns += 1 }
    server.hooks.onIdle = { _ in say("idle") }
    server.hooks.signals[.hangup] = { server in
        say("hangup: \(turns) turns, \(server.children.count) children, descriptors \(openDescriptors())")
        turns = 0
    }
    server.hooks.onEvent = { server, event in
        if case .serving = event { say("\(event)") } else if !settings.isOn("quiet") { say("\(event)") }
        if case .forked = event, settings.isOn("stop-at-fork") { server.stop() }
    }
    let verifying = settings.isOn("verify")
    server.hooks.verifyConnection = { _, _ in
        clients += 1
        if verifying, clients == 1 { return false }
        if verifying, clients == 2 { throw Failure("the hook's own") }
        return true
    }
    if let reply = settings.text("on-error") {
        server.hooks.onError = { error, _ in
            say("handling \(error)")
            if reply == "throw" { throw Failure("the hook failed") }
        }
    }
}

/// Every write to stderr fails from now on.
private func closeReaderOfErrors() throws {
    let errors = try pipe()
    dup2(errors.write, 2)
    close(errors.write)
    close(errors.read)
}

/// Something that the kernel does not give for a while.
private final class Shortage {
    private enum Kind { case descriptors, processes }
    private static let limitOfProcesses: __rlimit_resource_t = 6  // RLIMIT_NPROC, which Glibc's module hides

    private let kind: Kind
    private var hoard: [Int32] = []
    private var processes = rlimit()

    init(of kind: String) throws {
        self.kind = kind == "processes" ? .processes : .descriptors
        getrlimit(Self.limitOfProcesses, &processes)
        guard self.kind == .processes, getuid() == 0 else { return }
        // Root is exempt: become somebody who has no other process, keeping what it takes to come back in `over`.
        let unused: uid_t = 640_000_000 + uid_t(getpid())
        try expect(setreuid(unused, 0) == 0 && seteuid(unused) == 0, "root cannot become \(unused)")
    }

    func begin() {
        switch kind {
        case .descriptors:
            while case let descriptor = open("/dev/null", O_RDONLY | O_CLOEXEC), descriptor >= 0 {
                hoard.append(descriptor)
            }
        case .processes:
            limitProcesses(to: 0)
        }
        say("shortage begins")
    }

    func end() {
        for descriptor in hoard { close(descriptor) }
        hoard = []
        if kind == .processes { limitProcesses(to: processes.rlim_cur) }
        say("shortage ends")
    }

    private func limitProcesses(to count: rlim_t) {
        var limit = rlimit(rlim_cur: count, rlim_max: processes.rlim_max)
        setrlimit(Self.limitOfProcesses, &limit)
    }

    func over() {
        if kind == .processes { seteuid(0) }
    }
}
