// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import SystemPackage
import TestSupport

/// Clients that wait in the kernel's queue as the server is told to stop, or that wait for a process.
let drainScenarios = Group(
    "drain",
    Scenario(
        "waiting-at-stop", "clients in the kernel's queue at a stop are served while the server drains",
        descriptors: 1024, waitingAtStop),
    Scenario(
        "waiting-at-stop-for-programs", "clients in the kernel's queue at a stop are served by programs, too",
        descriptors: 1024, waitingAtStopForPrograms),
    Scenario(
        "waiting-at-end-of-drain", "clients whose turn has not come at the end of the drain are sent away",
        waitingAtEndOfDrain),
    Scenario(
        "waiting-beyond-descriptors",
        "of more clients than there are descriptors for, those that are taken at a stop are served", descriptors: 1024,
        waitingBeyondDescriptors),
    Scenario(
        "waiting-at-adopted-socket", "clients at an adopted socket wait there for whoever serves it next",
        waitingAtAdoptedSocket),
    Scenario(
        "waiting-at-close", "clients whom a loop of one's own has not taken are sent away as it closes the server",
        waitingAtClose)
)

let drainScenariosAsRoot = Group(
    "drain-as-root",
    Scenario(
        "handlers-wait-for-processes",
        "clients wait until there can be a process for their handler, and none is sent away"
    ) { try waitingForProcesses(.handler) },
    Scenario(
        "programs-wait-for-processes",
        "clients wait until there can be a process for their program, and none is sent away"
    ) { try waitingForProcesses(.program) },
    Scenario(
        "datagrams-wait-for-processes", "datagrams wait until there can be a process for them, and each is answered",
        datagramsWaitForProcesses)
)

private func listener(_ address: String = "127.0.0.1:0") throws -> Listener {
    try Listener(SocketAddress(parsing: address))
}

private func oneAtATime() -> ForkingServer.Configuration {
    var configuration = ForkingServer.Configuration()
    configuration.maxChildren = 1
    configuration.drainTimeout = .seconds(60)
    return configuration
}

/// Stops it as soon as the first client has its child. Returns how many had one.
private func serveStoppingAtFirst(_ server: ForkingServer) throws -> Int {
    var forks = 0
    server.hooks.onEvent = { server, event in
        if case .forked = event { forks += 1 }
        if case .forked = event, forks == 1 { server.stop() }
        if event.isTrouble { printErrorLine("\(event)") }
    }
    try server.serve()
    return forks
}

private func printErrorLine(_ line: String) { fputs(line + "\n", stderrStream()) }

/// They are served in the drain's time, as places come free, and none has another's connection.
private func waitingAtStop() throws {
    for address in ["127.0.0.1:0", "unix:@forking-waiting-\(getpid())"] {
        let server = try ForkingServer(listener(address), configuration: oneAtATime()) { connection in
            while let line = try connection.readLine() {
                try connection.write(line)
                try connection.write("\(openDescriptors().count)\n")
            }
        }
        let clients = try (0..<4).map { _ in try server.briefClient() }
        let forks = try serveStoppingAtFirst(server)
        let answers = try clients.map { try $0.receiveAll() }
        try expect(forks == 4 && answers[0].hasPrefix("hello\n"), "\(forks) were served: \(answers)")
        try expect(Set(answers).count == 1, "some have more descriptors than others: \(answers)")
    }
}

private func waitingAtStopForPrograms() throws {
    let server = try ForkingServer(programs: listener(), configuration: oneAtATime()) { _ in
        Program(path: "/bin/cat", arguments: ["cat"])
    }
    let clients = try (0..<4).map { _ in try server.briefClient() }
    let forks = try serveStoppingAtFirst(server)
    let answers = try clients.map { try $0.receiveAll() }
    try expect(forks == 4 && answers.allSatisfy { $0 == "hello\n" }, "\(forks) were served: \(answers)")
}

/// Whose turn has not come then is sent away.
private func waitingAtEndOfDrain() throws {
    let server = try echoServer {
        $0.maxChildren = 1
        $0.drainTimeout = .milliseconds(200)
    }
    let busy = try server.client()
    let clients = try (0..<3).map { _ in try server.briefClient() }
    let forks = try serveStoppingAtFirst(server)
    try expect(forks == 1, "\(forks) were served")
    for client in [busy] + clients { try expect(try client.receiveAll() == "", "somebody had an answer") }
}

/// There is always room for what the server itself does.
private func waitingBeyondDescriptors() throws {
    let server = try ForkingServer(programs: listener(), configuration: oneAtATime()) { _ in
        Program(path: "/bin/cat", arguments: ["cat"])
    }
    let gate = try pipe()
    let many = 22
    // There can be 26 more, whatever we have inherited.
    let taken = Set(openDescriptors())
    let most = (0..<1024).filter { !taken.contains($0) }[25] + 1
    var few = rlimit(rlim_cur: rlim_t(most), rlim_max: 1024)
    try expect(setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &few) == 0, "setrlimit")
    let crowd = fork()
    if crowd == 0 {
        for descriptor in Int32(3)..<1024 where descriptor != gate.write { close(descriptor) }  // the listener, too
        let clients = (0..<many).compactMap { _ in try? server.briefClient() }
        var count = UInt8(clients.count)
        write(gate.write, &count, 1)
        _exit(Int32(clients.count { (try? $0.receiveAll()) == "hello\n" }))
    }
    var count: UInt8 = 0
    try expect(read(gate.read, &count, 1) == 1 && count == many, "\(count) clients")
    close(gate.read)
    close(gate.write)
    let forks = try serveStoppingAtFirst(server)
    var status: Int32 = 0
    try expect(waitpid(crowd, &status, 0) == crowd, "the crowd is gone")
    try expect(forks > 2 && forks < many, "\(forks) were served")
    try expect(status == Int32(forks) << 8, "\(forks) were served, \(status >> 8) had answers")
}

/// They wait there for whoever serves next.
private func waitingAtAdoptedSocket() throws {
    let kept = try boundSocket("127.0.0.1:0")
    defer { close(kept) }
    let adopted = try Listener(adopting: FileDescriptor(rawValue: dup(kept)))
    let server = try ForkingServer(adopted, configuration: oneAtATime()) { connection in
        while let line = try connection.readLine() { try connection.write(line) }
    }
    let clients = try (0..<2).map { _ in try server.briefClient() }
    let forks = try serveStoppingAtFirst(server)
    try expect(forks == 1, "\(forks) were served")
    let next = accept(kept, nil, nil)
    try expect(next >= 0, "the second does not wait any more")
    close(next)
    withExtendedLifetime(clients) {}
}

/// In a loop of one's own the server takes whom it is told to.
private func waitingAtClose() throws {
    let server = try echoServer()
    let (first, second) = (try server.briefClient(), try server.briefClient())
    try server.serveOne()
    try server.close()
    try expect(try first.receiveAll() == "hello\n", "the first was not served")
    try expect(try second.receiveAll() == "", "the second was served")
}

// MARK: Too few processes

private enum Kind { case handler, program }

/// A user of this test's own, of whom there can be so many processes, this one included.
func becomeUser(withProcesses count: rlim_t) throws {
    let user = uid_t.random(in: 1_900_000_000..<2_000_000_000)  // a number of a process can be another's elsewhere
    var limit = rlimit(rlim_cur: count, rlim_max: count)
    try expect(setrlimit(__rlimit_resource_t(__RLIMIT_NPROC.rawValue), &limit) == 0, "setrlimit")
    try expect(setuid(user) == 0, "setuid: \(String(cString: strerror(errno)))")
}

/// Each is held until there can be a child for it; the others wait in the kernel's queue, and it is said once.
private func waitingForProcesses(_ kind: Kind) throws {
    var configuration = ForkingServer.Configuration()
    configuration.maxChildren = 8
    let server =
        switch kind {
        case .program:
            try ForkingServer(programs: listener(), configuration: configuration) { _ in
                Program(path: "/bin/cat", arguments: ["cat"])
            }
        case .handler:
            try ForkingServer(listener(), configuration: configuration) { connection in
                while let line = try connection.readLine() { try connection.write(line) }
            }
        }
    try becomeUser(withProcesses: 3)
    var (forks, verified, most, sentAway) = (0, 0, 0, 0)
    var told = [0]  // before the first has a child, and after each
    let clients = try (0..<6).map { _ in try server.client() }
    for client in clients { try client.send("hello\n") }
    server.hooks.verifyConnection = { _, _ in
        verified += 1
        return true
    }
    server.hooks.onEvent = { server, event in
        switch event {
        case .forked:
            forks += 1
            told.append(0)
            most = max(most, server.children.count)
            if forks == 6 { server.stop() }
        case .forkFailed: sentAway += 1
        case .shortage(let error):
            told[forks] += 1
            printErrorLine("\(error)")
            // From now on they come and go, one after the other.
            for client in clients { client.finishSending() }
        default: break
        }
    }
    try server.serve()
    let answers = try clients.map { try $0.receiveAll() }
    try expect(answers == Array(repeating: "hello\n", count: 6), "\(answers)")
    try expect((forks, verified, sentAway) == (6, 6, 0), "\(forks) forked, \(verified) verified, \(sentAway) sent away")
    // It is short again with each that comes once one has gone.
    try expect(
        most <= 2 && told.max()! <= 1 && told != Array(repeating: 0, count: 7),
        "\(most) children at once, shortages told: \(told)")
}

private func datagramsWaitForProcesses() throws {
    let socket = try Listener(SocketAddress(parsing: "127.0.0.1:0"), datagram: true)
    let server = try ForkingServer(datagrams: socket) { datagram in
        try datagram.reply(datagram.bytes)
        usleep(100_000)
    }
    try becomeUser(withProcesses: 2)
    let client = try DatagramClient("\(server.address)")
    for number in 0..<4 { try client.send("\(number)") }
    var (forks, sentAway, shortages) = (0, 0, 0)
    server.hooks.onEvent = { server, event in
        switch event {
        case .forked:
            forks += 1
            if forks == 4 { server.stop() }
        case .forkFailed: sentAway += 1
        case .shortage: shortages += 1
        default: break
        }
    }
    try server.serve()
    try expect(forks == 4 && sentAway == 0 && shortages >= 1, "\(forks) forked, \(sentAway) sent away, \(shortages)")
    for number in 0..<4 { try expect(try client.receive() == "\(number)", "\(number) has no answer") }
}
