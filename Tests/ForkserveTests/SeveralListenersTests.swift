// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// The lines that a server says where it listens on, so many.
func listeningAddresses(of running: Running, _ count: Int) throws -> [String] {
    try (0..<count).map { _ in try listeningAddress(of: running) }
}

/// A shell's command that hands the descriptors from 3 on over, as a service manager does, each by its name.
func handingOver(_ names: [String], _ command: String) -> String {
    "LISTEN_PID=$$ LISTEN_FDS=\(names.count) LISTEN_FDNAMES=\(names.joined(separator: ":")) exec \"$0\" \(command)"
}

@Suite("Several listeners in one forkserve")
struct SeveralListenersTests {
    /// A server that answers a line by that line, in each shape.
    static let commands = ["echo", "exec", "prefork --workers 2"]

    private func words(_ command: String, _ addresses: [String]) -> [String] {
        command.split(separator: " ").map(String.init) + addresses + (command == "exec" ? ["--", "cat"] : [])
    }

    @Test("addresses of all kinds, a line for each, and no file left", arguments: commands)
    func addresses(command: String) throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/socket"
        let server = try Running(
            forkserveProgram, words(command, ["127.0.0.1:0", "unix:\(path)", "127.0.0.1:0"]))
        let addresses = try listeningAddresses(of: server, 3)
        #expect(Set(addresses).count == 3 && addresses[1] == "unix:\(path)")
        for address in addresses + addresses.reversed() {
            let client = try Client(address)
            try client.echo("to \(address)")
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        server.send(SIGTERM)
        #expect(try server.wait() == 0, "\(server.errors)")
        #expect(!fileExists(path))
        try server.expectNothingAlive()
    }

    @Test("datagrams at two addresses")
    func datagrams() throws {
        let server = try Running(forkserveProgram, ["echo", "--udp", "127.0.0.1:0", "127.0.0.1:0"])
        for address in try listeningAddresses(of: server, 2) {
            let client = try DatagramClient(address)
            try client.send("to \(address)")
            #expect(try client.receive() == "to \(address)")
        }
        server.send(SIGTERM)
        #expect(try server.wait() == 0, "\(server.errors)")
    }

    // MARK: A service manager's

    private func sockets(_ count: Int) throws -> (numbered: [Int32: Int32], addresses: [String]) {
        let all = try (0..<count).map { _ in try boundSocket("127.0.0.1:0") }
        let addresses = all.map { descriptor in
            var address = sockaddr_in()
            var length = socklen_t(MemoryLayout<sockaddr_in>.size)
            withUnsafeMutableBytes(of: &address) {
                _ = getsockname(descriptor, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length)
            }
            return "127.0.0.1:\(UInt16(bigEndian: address.sin_port))"
        }
        return (Dictionary(uniqueKeysWithValues: all.enumerated().map { (Int32($0) + 3, $1) }), addresses)
    }

    private func closeAll(_ sockets: [Int32: Int32]) { for socket in sockets.values { close(socket) } }

    @Test("systemd serves all that were handed over, and those of one name as that name asks for", arguments: commands)
    func handedOver(command: String) throws {
        let (sockets, addresses) = try sockets(3)
        defer { closeAll(sockets) }
        for places in [["systemd"], ["systemd:b", "systemd:a"], ["systemd:b", addresses[0], addresses[2]]] {
            let script = handingOver(["a", "b", "a"], words(command, places).joined(separator: " "))
            let server = try Running("sh", ["-c", script, forkserveProgram], inherited: sockets)
            #expect(try Set(listeningAddresses(of: server, 3)) == Set(addresses))
            for address in addresses { try Client(address).echo("to \(address)") }
            server.send(SIGTERM)
            #expect(try server.wait() == 0, "\(server.errors)")
        }
    }

    @Test("what was handed over and is not asked for is an error that names it", arguments: commands)
    func unused(command: String) throws {
        let (sockets, addresses) = try sockets(2)
        defer { closeAll(sockets) }
        let cases: [(places: [String], told: [String])] = [
            (
                ["systemd:web"],
                ["a socket was handed over, and no server uses it", "\(addresses[1]), named 'x.socket'"]
            ),
            ([addresses[1]], ["\(addresses[0]), named 'web'", "systemd:web"]),
            (["127.0.0.2:0"], ["\(addresses[0]), named 'web'", "\(addresses[1]), named 'x.socket'"]),
            (["systemd:other"], ["no socket of the name 'other' was handed over; there are: web, x.socket"]),
        ]
        for (places, told) in cases {
            let script = handingOver(["web", "x.socket"], words(command, places).joined(separator: " "))
            let server = try Running("sh", ["-c", script, forkserveProgram], inherited: sockets)
            #expect(try server.wait() == 71 && server.output == "", "\(places)")
            for text in told { #expect(server.errors.contains(text), "\(server.errors)") }
            #expect(server.errors.filter { $0 == "\n" }.count == 1, "\(server.errors)")
        }
    }

    @Test("names that are not as many as the sockets are an error, a name without characters is wrong usage")
    func names() throws {
        let (sockets, _) = try sockets(2)
        defer { closeAll(sockets) }
        let script = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=a exec \"$0\" echo systemd"
        let server = try Running("sh", ["-c", script, forkserveProgram], inherited: sockets)
        #expect(try server.wait() == 71)
        #expect(server.errors.contains("LISTEN_FDNAMES has 1 names, and LISTEN_FDS is 2"), "\(server.errors)")
        #expect(try outcome(["echo", "systemd:"]).status == 64)
    }
}
