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
