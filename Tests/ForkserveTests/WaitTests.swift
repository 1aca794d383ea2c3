// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// A listening socket on descriptor 0 is what few programs take; forkserve is one of them.
@Suite("forkserve exec --wait")
struct WaitTests {
    /// A server whose program tells each client its own number, and goes on.
    private func server(_ options: [String] = []) throws -> (Running, address: String) {
        let inner = [forkserveProgram, "exec", "fd:0", "--", "sh", "-c", "echo $PPID"]
        return try forkserve(["exec", "--wait"] + options + ["127.0.0.1:0", "--"] + inner)
    }

    private func program(_ address: String) throws -> pid_t {
        guard let pid = try pid_t(Client(address).receiveAll().dropLast()) else { throw Failure("no number") }
        return pid
    }

    @Test("one program serves who comes, until it ends; then another one does")
    func connections() throws {
        let (server, address) = try server()
        let first = try program(address)
        #expect(Process(first)?.parent == server.pid)
        for _ in 0..<3 { #expect(try program(address) == first) }
        kill(first, SIGTERM)
        try eventually("it lives on") { Process(first) == nil }
        let second = try program(address)
        #expect(second != first)
        #expect(try program(address) == second)
        try stop(server)
    }

    @Test("several listeners have a program each")
    func several() throws {
        let directory = try TemporaryDirectory()
        let (server, first) = try server(["unix:\(directory.path)/a"])
        let second = try listeningAddress(of: server)
        let programs = try [first, second, first].map(program)
        #expect(programs[0] == programs[2] && programs[0] != programs[1])
        server.send(SIGTERM)
        #expect(try server.wait() == 0, "\(server.errors)")
        try server.expectNothingAlive()
    }

    @Test("datagrams: the next one has the program started again")
    func datagrams() throws {
        let directory = try TemporaryDirectory()
        let got = directory.path + "/got"
        let (server, address) = try forkserve(
            [
                "exec", "--wait", "--udp", "127.0.0.1:0", "--", "dd", "bs=100", "count=1", "status=none",
                "oflag=append",
                "conv=notrunc", "of=" + got,
            ])
        let client = try DatagramClient(address)
        for text in ["one,", "one,two,"] {
            try client.send(String(text.suffix(4)))
            try eventually("not there: \(text)") { contents(of: got) == text }
        }
        try stop(server)
    }

    @Test("a program that fails is started anew after longer and longer")
    func failing() throws {
        let directory = try TemporaryDirectory()
        let starts = directory.path + "/starts"
        let (server, address) = try forkserve(
            ["exec", "--wait", "127.0.0.1:0", "--", "sh", "-c", "echo x >>\"$0\"; exit 3", starts])
        let began = now()
        let client = try Client(address)
        try eventually("not started again") { contents(of: starts)?.count ?? 0 >= 8 }
        // 100, 200 and 400 ms, each up to a fifth shorter. At 50 ms each, as after a success, it would be 150.
        #expect(now() - began >= 0.5)
        withExtendedLifetime(client) {}
        server.send(SIGTERM)
        #expect(try server.wait() == 0)
    }

    @Test("at a stop the program may go on for a while, and is ended then")
    func stopping() throws {
        let (server, address) = try server(["--drain-timeout", "0.5"])
        let first = try program(address)
        server.send(SIGTERM)
        #expect(try server.wait() == 0, "\(server.errors)")
        #expect(Process(first) == nil)
        try server.expectNothingAlive()
    }
}
