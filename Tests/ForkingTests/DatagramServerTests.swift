// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("ForkingServer of datagrams")
struct DatagramServerTests {
    @Test("answers over IPv4, IPv6 and Unix", arguments: ["127.0.0.1:0", "[::1]:0", "unix:"])
    func answers(_ address: String) throws {
        let directory = try TemporaryDirectory()
        let isUnix = address == "unix:"
        let server = try Served(
            "datagrams=yes", "address=\(isUnix ? "unix:\(directory.path)/server" : address)")
        let client = try DatagramClient(server.address, boundTo: isUnix ? directory.path + "/client" : nil)
        for text in ["hello", "again", ""] {
            try client.send(text)
            #expect(try client.receive() == text)
        }
        try server.stop()
    }

    @Test("what is longer than the limit is cut, and said to be")
    func truncation() throws {
        let server = try Served("datagrams=yes", "datagram=8")
        let client = try DatagramClient(server.address)
        try client.send("12345678")
        #expect(try client.receive() == "12345678")
        try client.send("123456789")
        #expect(try client.receive() == "truncated 12345678")
        try server.stop()
    }

    @Test("by default 8192 bytes")
    func defaultLimit() throws {
        let server = try Served("datagrams=yes")
        let client = try DatagramClient(server.address)
        let most = String(repeating: "x", count: 8192)
        try client.send(most)
        #expect(try client.receive() == most)
        try client.send(most + "y")
        #expect(try client.receive() == "truncated " + most)
        try server.stop()
    }

    @Test("at the limit the next one waits")
    func waits() throws {
        let server = try Served("datagrams=yes", "max=1", "idle=0.2")
        let (first, second) = try (DatagramClient(server.address), DatagramClient(server.address))
        try first.send("hold")
        let child = try #require(pid_t(first.receive()))
        try second.send("hello")
        for _ in 0..<2 { try server.event("idle") }
        #expect(!second.hasAnswer)
        kill(child, SIGTERM)
        #expect(try second.receive() == "hello")
        try server.stop()
    }

    @Test("a sender without an address is an error that says so")
    func unnamedSender() throws {
        let directory = try TemporaryDirectory()
        let server = try Served("datagrams=yes", "address=unix:\(directory.path)/server")
        let client = try DatagramClient(server.address)
        try client.send("hello")
        try server.running.waitForError("the sender's socket has no address, so it cannot be answered")
        try server.event("exited with status 1")
        try server.stop()
    }

    @Test("a crash costs one datagram's answer, and the socket goes on")
    func crash() throws {
        let server = try Served("datagrams=yes")
        let client = try DatagramClient(server.address)
        try client.send("hold")
        let child = try #require(pid_t(client.receive()))
        kill(child, SIGSEGV)
        try server.event("killed by SIGSEGV")
        try client.send("hello")
        #expect(try client.receive() == "hello")
        try server.stop()
    }

    @Test("ForkingServer of datagrams, in a process of its own", arguments: try Scenario.of("datagram"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}
