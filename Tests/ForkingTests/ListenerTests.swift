// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage
import TestSupport
import Testing

@testable import Forking

/// A socket that is nobody's yet.
private func plainSocket(_ family: Int32, _ type: __socket_type) -> Int32 {
    socket(family, Int32(type.rawValue | SOCK_CLOEXEC.rawValue), 0)
}

/// Binds an address whose socket was closed just now. Tests run in parallel, and a program that another one is starting
/// has copies of all our descriptors until it is executed: until then the socket is not gone.
func bindOnceFree(_ address: SocketAddress, datagram: Bool = false) throws -> Listener {
    let deadline = now() + 10
    while true {
        do {
            return try Listener(address, datagram: datagram)
        } catch {
            guard now() < deadline else { throw error }
            usleep(2000)
        }
    }
}

@Suite("Listener")
struct ListenerTests {
    private let anywhere = try! SocketAddress(parsing: "127.0.0.1:0")

    private func awaitConnection(_ listener: borrowing Listener) throws -> Connection {
        var polled = pollfd(fd: listener.descriptor.rawValue, events: Int16(POLLIN), revents: 0)
        try expect(poll(&polled, 1, 20_000) == 1, "nobody came")
        guard let connection = try listener.accept() else { throw Failure("nobody came") }
        return connection
    }

    // MARK: TCP

    @Test("one that was shut down listens again, for as many in its queue as before") func listensAgain() throws {
        var options = Listener.Options()
        options.backlog = 7
        let listener = try Listener(anywhere, options: options)
        let descriptor = listener.descriptor.rawValue
        func backlog() throws -> UInt32 {
            var (info, length) = (tcp_info(), socklen_t(MemoryLayout<tcp_info>.size))
            try expect(getsockopt(descriptor, Int32(IPPROTO_TCP), TCP_INFO, &info, &length) == 0, "getsockopt")
            return info.tcpi_sacked  // of a listening socket: see tcp_diag.c
        }
        #expect(try backlog() == 7)
        #expect(try !listener.listenAgain())
        shutdown(descriptor, Int32(SHUT_RD))
        #expect(try listener.listenAgain())
        #expect(try backlog() == 7)
    }

    @Test("port 0 gives a port that can be connected to", arguments: ["127.0.0.1:0", "[::1]:0"])
    func chosenPort(_ text: String) throws {
        let listener = try Listener(SocketAddress(parsing: text))
        #expect(listener.address.port != 0 && !listener.isDatagram)
        try expectEqual(listener.address.ip, (SocketAddress(parsing: text)).ip)
        let none = try listener.accept() == nil
        #expect(none)
        let client = try Client(listener.address.description)
        let connection = try awaitConnection(listener)
        try expectEqual(connection.local, listener.address)
        try expectEqual(connection.peer, SocketAddress(boundTo: client.descriptor))
        expectEqual(fcntl(connection.descriptor.rawValue, F_GETFL) & O_NONBLOCK, 0)
        #expect(fcntl(connection.descriptor.rawValue, F_GETFD) & FD_CLOEXEC != 0)
        try connection.setNoDelay(true)
        try connection.write("hello")
        #expect(try client.receive() == "hello")
    }

    @Test("an IPv4 client of an IPv6 socket is told as IPv4; IPv6 only keeps it off")
    func dualStack() throws {
        let listener = try Listener(SocketAddress(parsing: "[::]:0"))
        let client = try Client("127.0.0.1:\(listener.address.port!)")
        #expect(try awaitConnection(listener).peer.ip == "127.0.0.1")
        withExtendedLifetime(client) {}
        var options = Listener.Options()
        options.isIPv6Only = true
        let only = try Listener(SocketAddress(parsing: "[::]:0"), options: options)
        #expect(throws: Failure.self) { try Client("127.0.0.1:\(only.address.port!)") }
    }

    @Test("a backlog below 1, or more than C can take, is refused", arguments: [0, -1, Int.min, 1 << 31, Int.max])
    func backlog(_ backlog: Int) {
        var options = Listener.Options()
        options.backlog = backlog
        let said = refusal { try Listener(anywhere, options: options) }
        #expect(said?.hasPrefix("backlog is \(backlog), and must be") == true, "\(said ?? "nothing")")
    }

    @Test("a port that is taken is named in the error")
    func doubleBind() throws {
        let first = try Listener(anywhere)
        let said = refusal { try Listener(first.address) }
        expectEqual(said, "bind \(first.address): Address already in use")
        let address = first.address
        _ = consume first
        _ = try bindOnceFree(address)
    }

    @Test("an address that is not this machine's is named in the error")
    func foreignAddress() throws {
        let said = refusal { try Listener(SocketAddress(parsing: "192.0.2.1:0")) }
        #expect(said?.hasPrefix("bind 192.0.2.1:0: ") == true)
    }

    @Test("a port is bound again while its former connections linger")
    func reuseAddress() throws {
        func serveOnce(_ options: Listener.Options) throws -> SocketAddress {
            let listener = try Listener(anywhere, options: options)
            let client = try Client(listener.address.description)
            _ = try awaitConnection(listener)  // closed by us first: our side lingers
            #expect(try client.receive() == "")
            return listener.address
        }
        let address = try serveOnce(Listener.Options())
        _ = try bindOnceFree(address)
        var strict = Listener.Options()
        strict.reusesAddress = false
        let taken = try serveOnce(strict)
        #expect(refusal { try Listener(taken, options: strict) }?.contains("in use") == true)
    }

    @Test("two can share a port if both say so")
    func reusePort() throws {
        var options = Listener.Options()
        options.reusesPort = true
        let first = try Listener(anywhere, options: options)
        #expect(refusal { try Listener(first.address) }?.contains("in use") == true)
        #expect(refusal { try Listener(first.address, options: options) } == nil)
        let datagrams = try Listener(anywhere, datagram: true, options: options)
        #expect(refusal { try Listener(datagrams.address, datagram: true) }?.contains("in use") == true)
        #expect(refusal { try Listener(datagrams.address, datagram: true, options: options) } == nil)
    }

    // MARK: Adopting

    @Test("takes over a socket of every kind that clients can come to")
    func adopt() throws {
        let directory = try TemporaryDirectory()
        for (text, type) in [
            ("127.0.0.1:0", SOCK_STREAM), ("[::1]:0", SOCK_STREAM), ("unix:\(directory.path)/s", SOCK_STREAM),
            ("unix:@\(directory.path)", SOCK_STREAM), ("127.0.0.1:0", SOCK_DGRAM),
            ("unix:\(directory.path)/d", SOCK_DGRAM),
        ] {
            let address = try SocketAddress(parsing: text)
            let socket = plainSocket(address.isUnix ? AF_UNIX : address.ip!.contains(":") ? AF_INET6 : AF_INET, type)
            try expect(address.withSockaddr { bind(socket, $0, $1) } == 0, "bind \(text)")
            if type == SOCK_STREAM { listen(socket, 5) }
            do {
                let listener = try Listener(adopting: FileDescriptor(rawValue: socket))
                expectEqual(listener.isDatagram, (type == SOCK_DGRAM))
                try expectEqual(listener.address, SocketAddress(boundTo: socket))
                expectEqual(listener.descriptor.rawValue, socket)
                if type == SOCK_STREAM, !text.contains("@") {
                    let client = try Client(listener.address.description)
                    _ = try awaitConnection(listener)
                    withExtendedLifetime(client) {}
                }
            }
            // The listener closed the socket, and left its file.
            if let path = address.path, !path.hasPrefix("@") { #expect(access(path, F_OK) == 0) }
        }
    }

    @Test("says what is wrong with a descriptor, and leaves it as it was")
    func adoptErrors() throws {
        func said(_ descriptor: Int32) -> String {
            let said = refusal { try Listener(adopting: FileDescriptor(rawValue: descriptor)) } ?? "nothing"
            if descriptor >= 0 {
                #expect(fcntl(descriptor, F_GETFD) >= 0, "it was closed")
                close(descriptor)
            }
            return said.split(separator: " ").dropFirst(2).joined(separator: " ")
        }
        #expect(said(-1) == "is not open")
        #expect(said(open("/dev/null", O_RDWR | O_CLOEXEC)) == "is not a socket")
        #expect(said(plainSocket(AF_INET, SOCK_STREAM)) == "is a stream socket that is not listening")
        #expect(said(plainSocket(AF_UNIX, SOCK_SEQPACKET)) == "is a socket neither for streams nor for datagrams")
        for family in [AF_INET, AF_INET6, AF_UNIX] {
            #expect(said(plainSocket(family, SOCK_DGRAM)) == "is a socket that is not bound to an address")
        }
        let listener = try Listener(anywhere)
        let client = try Client(listener.address.description)
        #expect(said(dup(client.descriptor)) == "is a stream socket that is not listening")
    }

    // MARK: Datagrams

    @Test("datagrams are taken and answered", arguments: [false, true])
    func datagrams(unix: Bool) throws {
        let directory = try TemporaryDirectory()
        func address(_ name: String) throws -> SocketAddress {
            try SocketAddress(parsing: unix ? "unix:\(directory.path)/\(name)" : "127.0.0.1:0")
        }
        let listener = try Listener(address("server"), datagram: true)
        let client = try Listener(address("client"), datagram: true)
        expectEqual(listener.isDatagram, true)
        let none = try listener.receive(limit: 4) == nil
        #expect(none)
        for (sent, kept, isTruncated) in [("", "", false), ("1234", "1234", false), ("12345", "1234", true)] {
            let bytes = Array(sent.utf8)
            let count = listener.address.withSockaddr {
                sendto(client.descriptor.rawValue, bytes, bytes.count, 0, $0, $1)
            }
            #expect(count == bytes.count)
            let datagram = try #require(try listener.receive(limit: 4))
            #expect(datagram.bytes == Array(kept.utf8) && datagram.isTruncated == isTruncated)
            #expect(datagram.peer == client.address)
            try datagram.reply(Array("answer".utf8))
            #expect(try client.receive(limit: 100)?.bytes == Array("answer".utf8))
        }
    }

    @Test("a Unix client without an address cannot be answered, which is said")
    func unanswerable() throws {
        let directory = try TemporaryDirectory()
        let listener = try Listener(SocketAddress(unix: directory.path + "/s"), datagram: true)
        let client = plainSocket(AF_UNIX, SOCK_DGRAM)
        defer { close(client) }
        expectEqual(listener.address.withSockaddr { sendto(client, "x", 1, 0, $0, $1) }, 1)
        let datagram = try #require(try listener.receive(limit: 10))
        #expect(datagram.peer.description == "unix: (unnamed)")
        #expect(refusal { try datagram.reply([1]) } == "the sender's socket has no address, so it cannot be answered")
    }
}
