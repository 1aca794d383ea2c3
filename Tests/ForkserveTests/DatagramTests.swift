// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve echo --udp")
struct DatagramTests {
    private func port(_ address: String) -> String {
        String(address[address.index(after: address.lastIndex(of: ":")!)...])
    }

    @Test("an answer comes from the address that was asked", arguments: ["0.0.0.0:0", "[::]:0"])
    func source(_ wildcard: String) throws {
        let (server, address) = try forkserve(["echo", "--udp", wildcard])
        for asked in ["127.0.0.1", "127.0.0.2", "127.9.9.9"] {
            // Connected, it hears nobody else.
            let client = try DatagramClient("\(asked):\(port(address))", deadline: 20)
            try client.send("from \(asked)")
            #expect(try client.receive() == "from \(asked)")
        }
        if wildcard.hasPrefix("[") {
            let client = try DatagramClient("[::1]:\(port(address))", deadline: 20)
            try client.send("hello")
            #expect(try client.receive() == "hello")
        }
        try stop(server)
    }

    @Test("what comes from a port that answers by itself, or from this server's own, is not answered")
    func loops() throws {
        let (server, address) = try forkserve(["echo", "--udp", "127.0.0.1:0"])
        let forged = try ["127.0.0.2:\(port(address))", "127.0.0.2:1023"].map { try boundSocket($0, datagram: true) }
        defer { for socket in forged { close(socket) } }
        for socket in forged {
            try withAddress(address) { _, pointer, length in
                try expect(sendto(socket, "x", 1, 0, pointer, length) == 1, "sendto")
            }
        }
        // It came after them, and so does its answer.
        let client = try DatagramClient(address)
        try client.send("honest")
        #expect(try client.receive() == "honest")
        for socket in forged {
            var byte: UInt8 = 0
            #expect(recv(socket, &byte, 1, Int32(MSG_DONTWAIT)) == -1)
        }
        try stop(server)
    }

    @Test("two that were set on each other fall silent, and serve on")
    func conversation() throws {
        let (one, first) = try forkserve(["echo", "--udp", "127.0.0.1:0"])
        let (other, second) = try forkserve(["echo", "--udp", "127.0.0.1:0"])
        try send(from: UInt16(port(first))!, to: UInt16(port(second))!)
        var last = -1.0
        try eventually(within: 60, "they go on") {
            let used = processorTime(of: one.pid) + processorTime(of: other.pid)
            defer { last = used }
            usleep(1_500_000)
            return used == last
        }
        for address in [first, second] {
            let client = try DatagramClient(address)
            try client.send("hello")
            #expect(try client.receive() == "hello")
        }
        try stop(one)
        try stop(other)
    }

    /// Sends a byte in another's name, on the loopback.
    private func send(from source: UInt16, to destination: UInt16) throws {
        let raw = socket(AF_INET, Int32(SOCK_RAW.rawValue | SOCK_CLOEXEC.rawValue), Int32(IPPROTO_UDP))
        try expect(raw >= 0, "this test takes root")
        defer { close(raw) }
        let header = [source, destination, 9, 0].flatMap { [UInt8($0 >> 8), UInt8($0 & 255)] }
        try withAddress("127.0.0.1:0") { _, pointer, length in
            try expect(sendto(raw, header + [1], 9, 0, pointer, length) == 9, "sendto")
        }
    }

    @Test("a Unix client that does not read costs nobody else anything")
    func silentReader() throws {
        let directory = try TemporaryDirectory()
        let (server, address) = try forkserve(["echo", "--udp", "--max-children", "2", "unix:\(directory.path)/s"])
        // Connected, its queue would have room for as many as the server's buffer allows.
        let silent = try boundSocket("unix:\(directory.path)/silent", datagram: true)
        defer { close(silent) }
        for _ in 0..<100 {
            try withAddress(address) { #expect(sendto(silent, "x", 1, 0, $1, $2) == 1) }
        }
        let client = try DatagramClient(address, boundTo: directory.path + "/client")
        try client.send("hello")
        #expect(try client.receive() == "hello")
        try eventually("children wait for a reader") { children(of: server.pid).isEmpty }
        try stop(server)
        #expect(server.errors == "")
    }
}
