// SPDX-License-Identifier: Apache-2.0

import CTestSupport
import Forking
import Glibc
import SystemPackage
import TestSupport

let serverEndScenarios = Group(
    "server-end",
    Scenario(
        "slow-programs",
        "slow programs hold further clients, who are served by and by, and the server goes on meanwhile",
        descriptors: 1024, slowPrograms),
    Scenario("listener-shut-down", "a listener that somebody else has shut down listens again") {
        try listenerShutDown("127.0.0.1:0")
    },
    Scenario(
        "listener-shut-down-lent", "a listener that is lent to programs, and that somebody has shut down, listens again"
    ) { try listenerShutDown("127.0.0.1:0", lent: true) },
    Scenario(
        "listener-shut-down-unix",
        "a Unix listener that somebody else has shut down cannot listen again, and the server says so"
    ) { try listenerShutDown("unix:@scenario-\(getpid())") },
    Scenario(
        "no-memory-for-a-stack", "without memory for a child's stack clients are served all the same", noMemoryForStack),
    Scenario(
        "before-fork-fails", "where the hook before the fork fails the server does not start", beforeForkFails),
    Scenario(
        "before-fork-fails-again", "where its second run fails, that is an event, and the server goes on",
        beforeForkFailsAgain)
)

/// Ten clients of programs that take their time to be executed: eight are under way, one is held, the last waits in the
/// kernel's queue. The server goes on meanwhile; once the programs run, all are served.
private func slowPrograms() throws {
    var low: Int32 = -1
    let code = test_hold_execve(&low)
    try expect(code == 0, "seccomp: \(code)")
    let descriptor = fcntl(low, F_DUPFD_CLOEXEC, 900)
    close(low)
    defer { close(descriptor) }
    var configuration = ForkingServer.Configuration()
    configuration.maxChildren = 10
    configuration.drainTimeout = .zero
    let server = try ForkingServer(
        programs: Listener(SocketAddress(parsing: "127.0.0.1:0")), configuration: configuration
    ) { _ in
        Program(path: "/bin/echo", arguments: ["echo", "served"])
    }
    var (shortages, ended, turnsBefore, turnsHeld) = (0, 0, 0, 0)
    var clients: [Client] = []
    server.hooks.onEvent = { _, event in
        switch event {
        case .shortage(let error):
            if error == .crowded { shortages += 1 }
        case .ended(let exit): ended += exit.isSuccess ? 1 : 0
        default: break
        }
    }
    server.hooks.onTurn = { server in
        if server.children.count == 8 {
            if shortages == 0 { turnsBefore += 1 } else { turnsHeld += 1 }
        }
        if turnsHeld > 10 { _ = test_let_execve_go(descriptor) }
        if ended == 10 { server.stop() }
    }
    for _ in 0..<10 { clients.append(try server.client()) }
    try server.serve()
    try expect(shortages >= 1 && ended == 10, "\(shortages) shortages, \(ended) were served")
    try expect(turnsBefore > 5, "told after \(turnsBefore) tries, as what lasts")
    for client in clients { try expect(try client.receiveAll() == "served\n", "a client was not served") }
}

/// Somebody who has the listener, too, shuts it down: it listens again where it can; else the server ends.
private func listenerShutDown(_ address: String, lent: Bool = false) throws {
    let listener = try Listener(SocketAddress(parsing: address))
    let copy = dup(listener.descriptor.rawValue)
    defer { close(copy) }
    var configuration = ForkingServer.Configuration()
    configuration.maxChildren = 4
    let server =
        if lent {
            try ForkingServer(lending: listener, configuration: configuration) { _ in
                Program(path: "/bin/sh", arguments: ["sh", "-c", "exec 0<&- 1>&-; exit 0"])
            }
        } else {
            try ForkingServer(listener, configuration: configuration) { try $0.write("served\n") }
        }
    let isUnix = server.address.isUnix
    var (mended, served) = (0, 0)
    var client: Client?
    server.hooks.onEvent = { server, event in
        switch event {
        case .serving: shutdown(copy, Int32(SHUT_RDWR))
        case .listeningAgain:
            mended += 1
            client = try? server.client()
        case .ended:
            served += 1
            server.stop()
        default: break
        }
    }
    if isUnix {
        do {
            try server.serve()
            throw Failure("it serves on")
        } catch let error as ForkingError {
            try expect("\(error)".contains("cannot be repaired"), "\(error)")
        }
        return
    }
    try server.serve()
    try expect((mended, served) == (1, 1), "mended \(mended) times, served \(served)")
    if !lent { try expect(try client?.receiveAll() == "served\n", "a client was not served") }
}

/// Children begin on the stack that their parent is on, then.
private func noMemoryForStack() throws {
    let pages = contents(of: "/proc/self/statm")!.split(separator: " ").first.flatMap { Int($0) }!
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit)
    limit.rlim_cur = rlim_t(pages * 4096 + 6 << 20)
    try expect(setrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit) == 0, "setrlimit")
    let server = try ForkingServer(Listener(SocketAddress(parsing: "127.0.0.1:0"))) { try $0.write("served\n") }
    let client = try server.client()
    server.hooks.onEvent = { server, event in if case .ended = event { server.stop() } }
    try server.serve()
    try expect(try client.receiveAll() == "served\n", "the client was not served")
}

private func beforeForkFails() throws {
    let server = try ForkingServer(Listener(SocketAddress(parsing: "127.0.0.1:0"))) { _ in }
    server.hooks.beforeFork = { _ in throw Failure("as asked") }
    let text = try invalidity { try server.serve() }
    try expect(text.contains("beforeFork failed: as asked"), text)
}

private func beforeForkFailsAgain() throws {
    let server = try ForkingServer(Listener(SocketAddress(parsing: "127.0.0.1:0"))) { try $0.write("served\n") }
    var (runs, failures, ended) = (0, 0, 0)
    server.hooks.beforeFork = { _ in
        runs += 1
        if runs > 1 { throw Failure("as asked") }
    }
    server.hooks.onEvent = { server, event in
        switch event {
        case .beforeForkFailed: failures += 1
        case .ended:
            ended += 1
            if ended == 20 { server.stop() }
        default: break
        }
    }
    let clients = try (0..<20).map { _ in try Client("\(server.address)") }
    try server.serve()
    try expect((runs, failures, ended) == (2, 1, 20), "\(runs) runs, \(failures) failures, \(ended) were served")
    for client in clients { try expect(try client.receiveAll() == "served\n", "a client was not served") }
}
