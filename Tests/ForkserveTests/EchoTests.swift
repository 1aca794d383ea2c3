// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// A forkserve that says where it listens.
func forkserve(_ arguments: [String], deadline: Double = 60) throws -> (Running, address: String) {
    let running = try Running(builtProgram("forkserve"), arguments, deadline: deadline)
    let prefix = "listening on "
    guard let line = try running.line(), line.hasPrefix(prefix) else {
        throw Failure("forkserve did not say where it listens: \(running.errors)")
    }
    return (running, String(line.dropFirst(prefix.count)))
}

/// Ends it as a service manager would; it must exit with 0 and leave nothing alive.
func stop(_ running: Running) throws {
    running.send(SIGTERM)
    #expect(try running.wait() == 0, "\(running.errors)")
    try running.expectNothingAlive()
}

@Suite("forkserve echo")
struct EchoTests {
    @Test("sends lines back until the client closes")
    func lines() throws {
        let (server, address) = try forkserve(["echo", "127.0.0.1:0"])
        let client = try Client(address)
        try client.echo("hello")
        try client.echo("again")
        client.finishSending()
        #expect(try client.receiveAll() == "")
        try stop(server)
    }
}
