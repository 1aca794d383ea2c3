// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve echo")
struct EchoTests {
    @Test("sends lines back until the client closes")
    func lines() throws {
        let (server, address) = try forkserve(["echo", "127.0.0.1:0"])
        #expect(address.hasPrefix("127.0.0.1:") && address != "127.0.0.1:0")
        let client = try Client(address)
        try client.echo("hello")
        try client.echo("again")
        client.finishSending()
        #expect(try client.receiveAll() == "")
        try stop(server)
    }

    @Test("serves IPv6")
    func ipv6() throws {
        let (server, address) = try forkserve(["echo", "[::1]:0"])
        #expect(address.hasPrefix("[::1]:") && address != "[::1]:0")
        try Client(address).echo("six")
        try stop(server)
    }

    @Test("serves a Unix path, and an abstract name")
    func unix() throws {
        let directory = try TemporaryDirectory()
        for asked in ["unix:\(directory.path)/a socket", "unix:@forkserve-test-\(getpid())"] {
            let (server, address) = try forkserve(["echo", asked])
            #expect(address == asked)
            try Client(address).echo("local")
            try stop(server)
        }
        #expect(entries(of: directory.path).isEmpty)
    }

    @Test("a line of a megabyte, bytes of every value, and what came before a half-close")
    func binary() throws {
        let (server, address) = try forkserve(["echo", "127.0.0.1:0"])
        let line = [UInt8](repeating: UInt8(ascii: "x"), count: 1_000_000) + [10]
        #expect(try Client(address).exchange(line) == line)
        let bytes = someBytes(3_000_000)
        #expect(try Client(address).exchange(bytes) == bytes)
        #expect(try Client(address).exchange([0]) == [0])
        try stop(server)
    }

    @Test("--once sends one line back and closes, whatever else came")
    func once() throws {
        let (server, address) = try forkserve(["echo", "--once", "127.0.0.1:0"])
        let client = try Client(address)
        try client.send("first")
        try client.send(" line\nsecond line\n")
        #expect(try client.receiveAllBytes() == Array("first line\n".utf8))
        try stop(server)
    }

    @Test("--udp sends datagrams back, empty ones too, over IPv4 and IPv6", arguments: ["127.0.0.1:0", "[::1]:0"])
    func datagrams(asked: String) throws {
        let (server, address) = try forkserve(["echo", "--udp", asked])
        let client = try withAddress(address) { family, pointer, length in
            let descriptor = socket(family, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            try expect(connect(descriptor, pointer, length) == 0, "connect \(address)")
            return descriptor
        }
        defer { close(client) }
        for bytes in [Array("a line\n".utf8), someBytes(8000), []] {
            var back = [UInt8](repeating: 0, count: 65_536)
            var polled = pollfd(fd: client, events: Int16(POLLIN), revents: 0)
            #expect(Glibc.send(client, bytes, bytes.count, 0) == bytes.count)
            try expect(poll(&polled, 1, 20_000) == 1, "no answer to \(bytes.count) bytes")
            let count = recv(client, &back, back.count, 0)
            #expect(Array(back.prefix(max(count, 0))) == bytes)
        }
        try stop(server)
    }

    @Test("answers nc", .needs("nc", package: "netcat-openbsd"))
    func netcat() throws {
        let (server, address) = try forkserve(["echo", "127.0.0.1:0"])
        let port = String(address.split(separator: ":")[1])
        let answer = try run("sh", ["-c", "printf 'one\\ntwo\\n' | nc -N 127.0.0.1 \(port)"])
        #expect(answer == "one\ntwo\n")
        try stop(server)
    }

    @Test("--max-children: the next client waits until one has gone")
    func limit() throws {
        let (server, address) = try forkserve(["echo", "--max-children", "2", "127.0.0.1:0"])
        let first = try Client(address), second = try Client(address)
        try first.echo("1")
        try second.echo("2")
        let third = try Client(address)
        try third.send("3\n")
        server.send(SIGUSR1)
        try server.waitForError("children: 2 of 2")
        #expect(children(of: server.pid).count == 2)
        first.finishSending()
        #expect(try third.receive() == "3\n")
        try stop(server)
    }
}
