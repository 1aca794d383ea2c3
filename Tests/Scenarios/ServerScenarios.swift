// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import SystemPackage
import TestSupport

// Servers whose clients live in the same process: the kernel's queue takes them before anybody serves. A child has
// copies of their descriptors, so a client says that it has finished by `finishSending`.

let serverScenarios = Group(
    "server",
    Scenario(program: "serve", serveProgram),
    Scenario("threads-refused", "in a process with threads it does not serve, and says why", threadsRefused),
    Scenario("one-step", "handleRequest() takes a client, or says that none has come", oneStep),
    Scenario(
        "one-step-reaps", "at the limit handleRequest() takes the next client once a child has ended", oneStepReaps),
    Scenario(
        "collect-children", "collectChildren() reaps who has ended, and waits for all where it is to block",
        collectChildren),
    Scenario(
        "observer-of-its-table", "an observer of its table is told of each end, and so is the server",
        observerOfItsTable),
    Scenario(
        "table-beside-server",
        "a table beside the server's is told of its own children's ends, and the server of its own", tableBesideServer),
    Scenario(
        "foreign-child-beside-server",
        "a child that is not the server's stays waitable for whose it is, also at the limit", foreignChildBesideServer),
    Scenario(
        "own-children-beside-server",
        "children that the user forks in the server's table are told of as the server's own", ownChildrenBesideServer),
    Scenario(
        "programs-wait-for-descriptors",
        "a client is held while there is no descriptor for its program, and then served", programsWaitForDescriptors),
    Scenario(
        "held-client-at-stop", "a client held for want of descriptors is sent away at a stop", heldClientAtStop),
    Scenario("all-given-back", "after serving, what is blocked and ignored is as before", allGivenBack),
    Scenario(
        "several-listeners", "where many wait at one listener, who waits at another is not the last to be served",
        descriptors: 1024, severalListeners)
)

/// A server that sends lines back.
func echoServer(
    _ address: String = "127.0.0.1:0", _ configure: (inout ForkingServer.Configuration) -> Void = { _ in }
) throws -> ForkingServer {
    var configuration = ForkingServer.Configuration()
    configure(&configuration)
    return try ForkingServer(Listener(SocketAddress(parsing: address)), configuration: configuration) { connection in
        while let line = try connection.readLine() { try connection.write(line) }
    }
}

extension ForkingServer {
    func client() throws -> Client { try Client("\(address)") }

    /// A client that has sent all it ever will: its child ends by itself.
    func briefClient() throws -> Client {
        let client = try client()
        try client.send("hello\n")
        client.finishSending()
        return client
    }

    /// The one child there is.
    var onlyChild: ProcessID? { children.count == 1 ? children.children[0].pid : nil }
}

func expectZombie(_ pid: ProcessID?) throws {
    try eventually("child \(pid ?? 0) has not ended") { Process(pid!)!.isZombie }
}

/// Calls `body` while this process has a second thread.
func withThread(_ body: () throws -> Void) throws {
    let gate = try pipe()
    var thread = pthread_t()
    let reader = UnsafeMutableRawPointer(bitPattern: Int(gate.read))
    pthread_create(
        &thread, nil,
        { reader in
            var byte: UInt8 = 0
            _ = read(Int32(Int(bitPattern: reader)), &byte, 1)
            return nil
        }, reader)
    defer {
        close(gate.write)
        pthread_join(thread, nil)
        close(gate.read)
    }
    try body()
}

private func threadsRefused() throws {
    let server = try echoServer()
    try withThread {
        for attempt in [{ try server.serve() }, { _ = try server.serveOne() }] {
            do {
                try attempt()
                throw Failure("it serves in a process with two threads")
            } catch let error as ForkingError where error.code == .threads {
                try expect(error == .threads(count: 2), "\(error)")
            }
        }
    }
    let text = "\(ForkingError.threads(count: 2))"
    try expect(text.contains("2 threads") && text.contains("fork before the first thread"), text)
    server.stop()
    try server.serve()  // one thread again
}

private func oneStep() throws {
    let server = try echoServer { $0.idleTimeout = .milliseconds(50) }
    var idle = 0
    server.hooks.onIdle = { _ in idle += 1 }
    var prepared = 0
    server.hooks.beforeFork = { _ in prepared += 1 }
    try expect(try !server.serveOne(), "it took a client that never came")
    try expect(idle == 1, "the hook ran \(idle) times")
    let client = try server.client()
    try expect(try server.serveOne(), "it did not take the client")
    try client.echo("hello")
    client.finishSending()
    _ = try server.children.wait()
    try expect(prepared == 1, "the hook before the fork ran \(prepared) times")
    server.stop()
    try expect(try !server.serveOne(), "it took a client after it was stopped")
    try server.close()
}

/// With room for one child, the second client is taken as soon as the first one's child has ended.
private func oneStepReaps() throws {
    let server = try echoServer {
        $0.maxChildren = 1
        $0.idleTimeout = .milliseconds(200)
    }
    var ended: [ProcessID] = []
    server.hooks.onEvent = { if case .ended(let exit) = $1 { ended.append(exit.pid) } }
    let (first, second) = (try server.client(), try server.client())
    try expect(try server.serveOne(), "the first was not taken")
    let child = server.onlyChild
    try expect(try !server.serveOne(), "the second was taken at the limit")
    first.finishSending()
    try expectZombie(child)
    try expect(try server.serveOne(), "the second was not taken, \(ended) having ended")
    try expect(ended == [child], "\(ended) ended")
    second.finishSending()
    try expectZombie(server.onlyChild)
    try expect(try !server.serveOne(), "a third one was taken")
    try expect(ended.count == 2, "the second's child was not reaped while waiting")
}

private func collectChildren() throws {
    let server = try echoServer()
    var ended: [ProcessID] = []
    server.hooks.onEvent = { if case .ended(let exit) = $1 { ended.append(exit.pid) } }
    let (first, second) = (try server.client(), try server.client())
    try server.serveOne()
    let child = server.onlyChild
    try server.serveOne()
    first.finishSending()
    try expectZombie(child)
    server.children.collect()
    try expect(ended == [child] && server.children.count == 1, "\(ended) ended, one should have")
    try second.echo("still here")
    second.finishSending()
    _ = try server.children.wait()
    try expect(ended.count == 2 && server.children.count == 0, "the blocking pass did not wait for all")
}

private func tableBesideServer() throws {
    let server = try echoServer { $0.maxChildren = 2 }
    let table = try ChildTable(maxChildren: 4)
    var (ofServer, ofTable): ([ExitStatus], [ExitStatus]) = ([], [])
    let stopSwitch = server.stopSwitch
    func stopAtLast() {
        if ofServer.count == 6, ofTable.count == 4 { stopSwitch.stop() }
    }
    server.hooks.onEvent = { _, event in
        if case .ended(let exit) = event { ofServer.append(exit.status) }
        stopAtLast()
    }
    table.onExit = { exit in
        ofTable.append(exit.status)
        stopAtLast()
    }
    let clients = try (0..<6).map { _ in try server.briefClient() }
    for _ in 0..<4 { try table.fork { 72 } }
    try server.serve()
    try expect(ofServer == Array(repeating: .exited(code: 0), count: 6), "the server was told \(ofServer)")
    try expect(ofTable == Array(repeating: .exited(code: 72), count: 4), "the table was told \(ofTable)")
    for client in clients { try expect(try client.receiveAll() == "hello\n", "a client was not served") }
}

/// A child that is not the server's stays waitable for its own parent's code, also at the limit.
private func foreignChildBesideServer() throws {
    let foreign = fork()
    if foreign == 0 { _exit(72) }
    try expectZombie(foreign)
    let server = try echoServer { $0.maxChildren = 1 }
    var ended = 0
    server.hooks.onEvent = { server, event in
        if case .ended = event { ended += 1 }
        if ended == 3 { server.stop() }
    }
    let clients = try (0..<3).map { _ in try server.briefClient() }
    try server.serve()
    for client in clients { try expect(try client.receiveAll() == "hello\n", "a client was not served") }
    var status: Int32 = 0
    try expect(waitpid(foreign, &status, WNOHANG) == foreign && status == 72 << 8, "status \(status)")
}

/// Who has an observer of the server's table is told of each end, and so is the server.
private func observerOfItsTable() throws {
    let server = try echoServer()
    var (seen, told) = (0, 0)
    server.hooks.onEvent = { if case .ended = $1 { seen += 1 } }
    server.children.onExit = { _ in told += 1 }
    for _ in 0..<3 {
        let client = try server.briefClient()
        try expect(server.serveOne(), "no client was taken")
        for child in server.children.children {
            try eventually("a child lives") { Process(child.pid)?.isZombie ?? true }
        }
        _ = client
    }
    _ = try server.children.wait()
    try expect((seen, told) == (3, 3), "of 3 ends the server was told of \(seen), the other of \(told)")
    try server.close()
}

/// Children that the user forks in the server's table are told of as the server's own.
private func ownChildrenBesideServer() throws {
    let server = try echoServer { $0.idleTimeout = .milliseconds(50) }
    var own: [ProcessID] = []
    var ended: [ProcessID] = []
    var client: Client?
    var childrenAfter = 0
    server.hooks.onEvent = { server, event in
        switch event {
        case .ended(let exit) where exit.peer == nil: ended.append(exit.pid)
        case .forked, .stopping(.drain): (try? server.children.fork { 0 }).map { own.append($0) }
        default: break
        }
    }
    server.hooks.onIdle = { server in
        if client == nil {
            client = try? server.client()
        } else if let first = own.first, !server.children.children.contains(where: { $0.pid == first }) {
            childrenAfter = server.children.count
            client?.finishSending()
            server.stop()
        }
    }
    try server.serve()
    try expect(childrenAfter == 1, "\(childrenAfter) children, which should be the client's")
    try expect(own.count == 2 && ended == own, "\(own) were the user's, \(ended) were told of")
}

/// A server of `cat`, for which there are only so many descriptors from `begin` to `end`.
private final class ShortOfDescriptors {
    var (tries, verified) = (0, 0)
    var told: [ForkingError] = []
    var sentAway = 0
    private(set) var server: ForkingServer!
    private var hoard: [Int32] = []

    init(onTry: @escaping (ShortOfDescriptors) -> Void) throws {
        var configuration = ForkingServer.Configuration()
        configuration.maxChildren = 8
        let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
        server = try ForkingServer(programs: listener, configuration: configuration) { [unowned self] _ in
            tries += 1
            onTry(self)
            return Program(path: "/bin/cat", arguments: ["cat"])
        }
        server.hooks.verifyConnection = { [unowned self] _, _ in
            verified += 1
            return true
        }
        server.hooks.onEvent = { [unowned self] _, event in
            if case .shortage(let error) = event { told.append(error) }
            if case .forkFailed = event { sentAway += 1 }
        }
    }

    func begin(free: Int) {
        while case let descriptor = dup(2), descriptor >= 0 { hoard.append(descriptor) }
        for _ in 0..<free { close(hoard.removeLast()) }
    }

    func end() {
        for descriptor in hoard { close(descriptor) }
        hoard = []
    }
}

/// There is a descriptor to accept the client, but none for its child.
private func programsWaitForDescriptors() throws {
    for (free, call) in [(1, "fcntl"), (2, "clone")] {
        var client: Client!
        var hadAnswer = false
        let short = try ShortOfDescriptors { short in
            guard short.tries == 4 else { return }
            hadAnswer = client.hasAnswer
            short.end()
        }
        var turns = 0
        short.server.hooks.onTurn = { _ in turns += 1 }
        client = try short.server.briefClient()
        let next = try short.server.briefClient()
        short.begin(free: free)
        try expect(try short.server.serveOne(), "the client was not taken")
        try expect(short.tries == 4 && !hadAnswer && short.verified == 1, "\(short.tries) tries")
        try expect(turns < 20, "\(turns) turns of the loop")
        try expect(short.told == [.system(call: call, .tooManyOpenFiles)] && short.sentAway == 0, "\(short.told)")
        try expect(try short.server.serveOne(), "the next was not taken")
        _ = try short.server.children.wait()
        for one in [client!, next] { try expect(try one.receiveAll() == "hello\n", "a client was not served") }
    }
}

private func heldClientAtStop() throws {
    let short = try ShortOfDescriptors { if $0.tries == 3 { $0.server.stop() } }
    let client = try short.server.briefClient()
    short.begin(free: 1)
    try expect(try !short.server.serveOne(), "the client was taken")
    short.end()
    try expect(try client.receiveAll() == "", "the client was served")
    try short.server.close()
    try expect(short.tries == 3 && short.sentAway == 0, "\(short.tries) tries, \(short.sentAway) sent away")
}

/// Signal mask and SIGPIPE are after serving what they were before. In a child nothing is blocked, and SIGPIPE stays
/// ignored.
private func allGivenBack() throws {
    let before = blockedSignals()
    do {
        let server = try echoServer()
        var during = before
        var ignored = false
        server.hooks.signals[.hangup] = { _ in }
        server.hooks.onEvent = { _, _ in (during, ignored) = (blockedSignals(), ignores(SIGPIPE)) }
        var childIgnores: [Int32] = []
        server.hooks.onTurn = { server in
            guard childIgnores.isEmpty else { return }
            childIgnores = [0]
            _ = try? server.children.fork {
                !blockedSignals().isEmpty || ignores(SIGXFSZ) ? 1 : ignores(SIGPIPE) ? 2 : 3
            }
            server.stop()
        }
        let onEvent = server.hooks.onEvent
        server.hooks.onEvent = { server, event in
            onEvent(server, event)
            if case .ended(let exit) = event, case .exited(let code) = exit.status { childIgnores = [code] }
        }
        try server.serve()
        try expect(childIgnores == [2], "in a child: \(childIgnores)")
        try expect(
            Set([SIGTERM, SIGINT, SIGHUP, SIGCHLD, SIGXFSZ]).isSubset(of: during) && ignored, "blocked: \(during)")
    }
    try expect(
        blockedSignals() == before && !ignores(SIGPIPE),
        "before \(before), after \(blockedSignals())")
}

private func blockedSignals() -> [Int32] {
    var mask = sigset_t()
    sigprocmask(SIG_BLOCK, nil, &mask)
    return (1...31).filter { sigismember(&mask, $0) == 1 }
}

private func ignores(_ signal: Int32) -> Bool {
    var action = sigaction()
    sigaction(signal, nil, &action)
    return unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self) == 1
}

/// Where many wait at one listener, one who waits at another is not the last to be served.
private func severalListeners() throws {
    let server = try echoServer()
    let name = "unix:@forking-several-\(getpid())"
    try server.add(Listener(SocketAddress(parsing: name)))
    try expect(server.addresses.map(\.description) == ["\(server.address)", name], "\(server.addresses)")
    do {
        try server.add(Listener(SocketAddress(parsing: "127.0.0.1:0"), datagram: true))
        throw Failure("a listener of datagrams was taken")
    } catch let error as ForkingError where error.code == .invalid {
        let reason = error.description
        try expect(reason.contains("is for datagrams, and this server's others are not"), reason)
    }
    var served: [Bool] = []
    server.hooks.onEvent = { if case .forked(_, let peer) = $1 { served.append(peer.isUnix) } }
    let many = try (0..<8).map { _ in try server.briefClient() }
    let few = try (0..<2).map { _ in try Client(name) }
    for client in few {
        try client.send("hello\n")
        client.finishSending()
    }
    for _ in 0..<10 { try expect(server.serveOne(), "somebody was not served") }
    for client in many + few { try expect(client.receiveAll() == "hello\n", "not served") }
    try expect(served.prefix(4).count(where: \.self) == 2 && served.count(where: \.self) == 2, "\(served)")
    _ = try server.children.wait()
    try server.close()
    try expect((try? Client(name)) == nil && (try? Client("\(server.address)")) == nil, "it still listens")
}
