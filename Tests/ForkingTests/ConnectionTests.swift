// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage
import TestSupport
import Testing

@testable import Forking

/// The other end of a connection under test.
final class Peer: @unchecked Sendable {
    private(set) var descriptor: Int32

    init(_ descriptor: Int32) { self.descriptor = descriptor }
    deinit { hangUp() }

    func send(_ text: String) { send(Array(text.utf8)) }

    func send(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }

    func finish() { shutdown(descriptor, Int32(SHUT_WR)) }

    func hangUp() {
        if descriptor >= 0 { close(descriptor) }
        descriptor = -1
    }

    /// Whether the other side has closed, rather than being silent.
    var isAtEnd: Bool {
        var byte: UInt8 = 0
        return recv(descriptor, &byte, 1, 0) == 0
    }

    /// What comes next, empty at the end.
    func receive(upTo limit: Int = 65_536) -> [UInt8] {
        var bytes = [UInt8](repeating: 0, count: limit)
        let count = recv(descriptor, &bytes, limit, 0)
        return Array(bytes.prefix(max(count, 0)))
    }
}

/// A connection and its peer, each with a deadline.
func withConnection<R>(
    bufferSize: Int32? = nil, _ body: (inout Connection, Peer) throws -> R
) throws -> R {
    var pair: [Int32] = [0, 0]
    guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &pair) == 0 else {
        throw Failure("socketpair")
    }
    if var size = bufferSize {
        for end in pair {
            for option in [SO_SNDBUF, SO_RCVBUF] { setsockopt(end, SOL_SOCKET, option, &size, 4) }
        }
    }
    var deadline = timeval(tv_sec: 30, tv_usec: 0)
    setsockopt(pair[1], SOL_SOCKET, SO_RCVTIMEO, &deadline, socklen_t(MemoryLayout<timeval>.size))
    setsockopt(pair[1], SOL_SOCKET, SO_SNDTIMEO, &deadline, socklen_t(MemoryLayout<timeval>.size))
    let peer = Peer(pair[1])
    var connection = Connection(FileDescriptor(rawValue: pair[0]), peer: try SocketAddress(unix: "@peer"))
    try connection.setTimeout(.seconds(30))
    return try body(&connection, peer)
}

/// Runs `body` in a thread of its own; `join` waits for it.
final class Thread {
    private var thread = pthread_t()
    private final class Body {
        let run: () -> Void
        init(_ run: @escaping () -> Void) { self.run = run }
    }

    init(_ body: @escaping @Sendable () -> Void) {
        let context = Unmanaged.passRetained(Body(body)).toOpaque()
        pthread_create(
            &thread, nil,
            {
                Unmanaged<Body>.fromOpaque($0!).takeRetainedValue().run()
                return nil
            }, context)
    }

    func join() { pthread_join(thread, nil) }
}

@Suite("Connection")
struct ConnectionTests {
    private func line(_ bytes: [UInt8]?) -> String? { bytes.map { String(decoding: $0, as: UTF8.self) } }

    @Test("reads line by line, and the last without a newline")
    func lines() throws {
        try withConnection { connection, peer in
            peer.send("one\n\ntwo\r\nlast")
            peer.finish()
            try expectEqual(line(connection.readLine()), "one\n")
            try expectEqual(line(connection.readLine()), "\n")
            try expectEqual(line(connection.readLine()), "two\r\n")
            try expectEqual(line(connection.readLine()), "last")
            try expectEqual(connection.readLine(), nil)
            try expectEqual(connection.readLine(), nil)
        }
    }

    @Test("a line that comes byte by byte is one line")
    func split() throws {
        try withConnection { connection, peer in
            let sender = Thread {
                for byte in Array("slow line\nnext\n".utf8) {
                    peer.send([byte])
                    usleep(500)
                }
            }
            try expectEqual(line(connection.readLine(limit: 10)), "slow line\n")
            try expectEqual(line(connection.readLine(limit: 10)), "next\n")
            sender.join()
        }
    }

    @Test(
        "a line of exactly the limit is read, one byte more is too long", arguments: [1, 2, 10, 4096, 16_384, 65_536])
    func limit(_ limit: Int) throws {
        try withConnection { connection, peer in
            let longest = String(repeating: "x", count: limit - 1) + "\n"
            let sender = Thread { peer.send(longest + "x" + longest + "end\n") }
            try expectEqual(connection.readLine(limit: limit)?.count, limit)
            #expect(throws: ForkingError.lineTooLong(limit: limit)) { try connection.readLine(limit: limit) }
            // What is too long was not lost.
            #expect(throws: ForkingError.lineTooLong(limit: limit)) { try connection.readLine(limit: limit) }
            try expectEqual(connection.readLine(limit: limit + 1)?.count, limit + 1)
            try expectEqual(line(connection.readLine(limit: 4)), "end\n")
            sender.join()
        }
    }

    @Test("the limit holds without a newline, too, at the end and before")
    func limitWithoutNewline() throws {
        try withConnection { connection, peer in
            peer.send("12345")
            peer.finish()
            #expect(throws: ForkingError.lineTooLong(limit: 4)) { try connection.readLine(limit: 4) }
            try expectEqual(line(connection.readLine(limit: 5)), "12345")
            try expectEqual(connection.readLine(limit: 5), nil)
        }
        try withConnection { connection, peer in
            peer.send("12345")  // and no end in sight: it must not wait for one
            #expect(throws: ForkingError.lineTooLong(limit: 4)) { try connection.readLine(limit: 4) }
        }
    }

    @Test("a limit may be as large as a number can be")
    func noLimit() throws {
        try withConnection { connection, peer in
            peer.send("line\n1234")
            try expectEqual(line(connection.readLine(limit: .max)), "line\n")
            try expectEqual(connection.read(upTo: .max).count, 4)
        }
    }

    @Test("no byte is special but the newline")
    func binary() throws {
        let all = (0...255).map(UInt8.init).filter { $0 != 10 }
        try withConnection { connection, peer in
            peer.send(all + [10] + all)
            try expectEqual(connection.readLine(), all + [10])
            try expectEqual(connection.read(exactly: all.count), all)
        }
    }

    @Test("reads of all kinds share one buffer, and lose nothing")
    func mixed() throws {
        try withConnection { connection, peer in
            let body = (0..<100_000).map { UInt8(truncatingIfNeeded: $0 &* 31) }
            let sender = Thread {
                peer.send("POST\n")
                peer.send(body)
                peer.send("\nrest")
                peer.finish()
            }
            try expectEqual(line(connection.readLine()), "POST\n")
            try expectEqual(connection.read(exactly: 0), [])
            try expectEqual(connection.read(upTo: 1), [body[0]])
            try expectEqual(connection.read(exactly: body.count - 1), Array(body[1...]))
            try expectEqual(line(connection.readLine()), "\n")
            try expectEqual(line(connection.read(exactly: 2)), "re")
            var rest: [UInt8] = []
            while case let piece = try connection.read(upTo: 1), !piece.isEmpty { rest += piece }
            #expect(line(rest) == "st")
            try expectEqual(connection.read(), [])
            sender.join()
        }
    }

    @Test("many short lines in few pieces keep their order")
    func manyLines() throws {
        try withConnection { connection, peer in
            let sender = Thread {
                peer.send((0..<20_000).map { "line \($0)\n" }.joined())
                peer.finish()
            }
            var count = 0
            while let next = try connection.readLine() {
                try expect(line(next) == "line \(count)\n", "line \(count) is \(line(next)!)")
                count += 1
            }
            #expect(count == 20_000)
            sender.join()
        }
    }

    @Test("an end in the middle says how much there was, and keeps it")
    func endOfStream() throws {
        try withConnection { connection, peer in
            peer.send("abc")
            peer.finish()
            #expect(throws: ForkingError.endOfStream(received: 3, expected: 10)) { try connection.read(exactly: 10) }
            try expectEqual(line(connection.read(exactly: 3)), "abc")
            #expect(throws: ForkingError.endOfStream(received: 0, expected: 1)) { try connection.read(exactly: 1) }
        }
    }

    @Test("a peer that is silent, or takes nothing, runs into the time-out; what had come is kept")
    func timeouts() throws {
        try withConnection(bufferSize: 4096) { connection, peer in
            try connection.setTimeout(.milliseconds(30))
            peer.send("par")
            #expect(throws: ForkingError.timedOut) { try connection.readLine() }
            #expect(throws: ForkingError.timedOut) { try connection.read(exactly: 4) }
            peer.send("tial\n")
            try expectEqual(line(connection.readLine()), "partial\n")
            #expect(throws: ForkingError.timedOut) { try connection.read() }
            #expect(throws: ForkingError.timedOut) { try connection.write([UInt8](repeating: 0, count: 1 << 20)) }
            try connection.setTimeout(nil)
            peer.send("x")
            try expectEqual(line(connection.read()), "x")
        }
    }

    @Test("a time-out must be positive; the shortest and the longest are taken")
    func timeoutArguments() throws {
        try withConnection { connection, peer in
            for wrong in [Duration.zero, .seconds(-1), .nanoseconds(-1)] {
                #expect(refusal { try connection.setTimeout(wrong) }?.contains("must be positive") == true)
            }
            try connection.setTimeout(.nanoseconds(1))  // not 0, which would be for ever
            #expect(throws: ForkingError.timedOut) { try connection.read() }
            try connection.setTimeout(.seconds(Int64.max))
            peer.send("x")
            try expectEqual(line(connection.read()), "x")
        }
    }

    @Test("a large write to a slow reader arrives whole")
    func largeWrite() throws {
        try withConnection(bufferSize: 4096) { connection, peer in
            let bytes = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0 &* 7 &+ $0 / 251) }
            nonisolated(unsafe) var received: [UInt8] = []
            let reader = Thread {
                while case let piece = peer.receive(upTo: 5000), !piece.isEmpty {
                    received += piece
                    if received.count % 50 == 0 { usleep(200) }
                }
            }
            try connection.write(bytes)
            connection.finishWriting()
            reader.join()
            #expect(received == bytes)
        }
    }

    @Test("writes text, bytes, spans, and nothing at all")
    func writes() throws {
        try withConnection { connection, peer in
            try connection.write("tëxt ")
            try connection.write([98, 0, 255])
            try connection.write([UInt8](repeating: 33, count: 2).span.bytes)
            try connection.write("")
            try connection.write([])
            connection.finishWriting()
            var all: [UInt8] = []
            while case let piece = peer.receive(), !piece.isEmpty { all += piece }
            #expect(all == Array("tëxt ".utf8) + [98, 0, 255, 33, 33])
        }
    }

    @Test("a write to a peer that has gone throws, and raises no signal")
    func brokenPipe() throws {
        try withConnection { connection, peer in
            peer.send("unread")
            peer.hangUp()
            #expect(throws: ForkingError.system(call: "send", .brokenPipe)) { try connection.write("x") }
            try expectEqual(line(connection.read()), "unread")
        }
    }

    @Test("goes away with its descriptor")
    func closes() throws {
        let peer = try withConnection { connection, peer in
            #expect(fcntl(connection.descriptor.rawValue, F_GETFD) >= 0)
            return peer
        }
        #expect(peer.isAtEnd)
    }

    @Test("says when it is no socket, or not TCP")
    func notASocket() throws {
        let (read, write) = try TestSupport.pipe()
        defer { close(write) }
        var connection = Connection(FileDescriptor(rawValue: read), peer: try SocketAddress(unix: "@none"))
        #expect(throws: ForkingError.system(call: "recv", .notSocket)) { try connection.read() }
        #expect(throws: ForkingError.system(call: "send", .notSocket)) { try connection.write("x") }
        #expect(throws: ForkingError.system(call: "getsockname", .notSocket)) { _ = try connection.local }
        try withConnection { connection, _ in
            #expect(refusal { try connection.setNoDelay(true) }?.hasPrefix("setsockopt TCP_NODELAY: ") == true)
        }
    }
}
