// SPDX-License-Identifier: Apache-2.0

import CTestSupport
import Forking
import Glibc
import TestSupport

/// Ten clients of programs that take their time to be executed: eight are under way, one is held, the last waits in the
/// kernel's queue. The server goes on meanwhile; once the programs run, all are served.
func slowPrograms() throws {
    var low: Int32 = -1
    let code = test_hold_execve(&low)
    try expect(code == 0, "seccomp: \(code)")
    let descriptor = fcntl(low, F_DUPFD_CLOEXEC, 900)
    close(low)
    defer { close(descriptor) }
    var configuration = ForkingServer.Configuration()
    configuration.maxChildren = 10
    configuration.drain = .zero
    let server = try ForkingServer(
        programs: Listener(SocketAddress(parsing: "127.0.0.1:0")), configuration: configuration
    ) { _ in
        Program(path: "/bin/echo", arguments: ["echo", "served"])
    }
    var (shortages, ended, turnsBefore, turnsHeld) = (0, 0, 0, 0)
    var clients: [Client] = []
    server.hooks.observe = { event in
        switch event {
        case .shortage(let error):
            if error == .crowded { shortages += 1 }
        case .ended(let exit): ended += exit.isSuccess ? 1 : 0
        default: break
        }
    }
    server.hooks.serviceActions = { [unowned server] in
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

/// What is made ready in each spare ends it: it is tried again, but not all the time.
func endingSpares() throws {
    var configuration = ForkingServer.Configuration()
    configuration.spares = 2
    configuration.maxChildren = 4
    let server = try ForkingServer(
        Listener(SocketAddress(parsing: "127.0.0.1:0")), configuration: configuration
    ) { connection in try connection.write("served\n") }
    let parent = getpid()
    var (ended, client): (Int, Client?) = (0, nil)
    let begun = now()
    server.hooks.prewarm = { if getpid() != parent, now() - begun < 2 { _exit(3) } }
    server.hooks.observe = { event in
        if case .ended(let exit) = event, exit.status == .exited(code: 3) { ended += 1 }
    }
    server.hooks.serviceActions = { [unowned server] in
        if now() - begun > 1, client == nil { client = try? server.client() }
        if client != nil, now() - begun > 1.5 { server.stop() }
    }
    // Something to turn for.
    server.hooks.signals[.alarm] = {}
    let interval = timeval(tv_sec: 0, tv_usec: 100_000)
    var timer = itimerval(it_interval: interval, it_value: interval)
    setitimer(__itimer_which_t(ITIMER_REAL.rawValue), &timer, nil)
    try server.serve()
    timer = itimerval()
    setitimer(__itimer_which_t(ITIMER_REAL.rawValue), &timer, nil)
    // Waits of 0.1, 0.2, 0.4 and 0.8 s, give or take a fifth, and two at a time.
    try expect((2...12).contains(ended), "\(ended) spares ended")
    try expect(try client?.receiveAll() == "served\n", "a client was not served meanwhile")
}
