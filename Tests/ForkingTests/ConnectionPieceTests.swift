// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

@testable import Forking

/// What was sent, and what is to be read of it. The period is a prime, so that bytes at a wrong place show.
private struct Stream {
    private static let period = (0..<10_007).map { UInt8(truncatingIfNeeded: $0 &* 31 &+ $0 / 256) }
        .map { $0 == UInt8(ascii: "\n") ? 0 : $0 }
    private var sent = 0
    private var read = 0

    private static func bytes(_ range: Range<Int>) -> [UInt8] {
        var bytes: [UInt8] = []
        bytes.reserveCapacity(range.count + period.count)
        while bytes.count < range.count {
            bytes += period[((range.lowerBound + bytes.count) % period.count)...]
        }
        return Array(bytes.prefix(range.count))
    }

    /// The next `count` bytes, none of which is a newline.
    mutating func next(_ count: Int) -> [UInt8] {
        defer { sent += count }
        return Self.bytes(sent..<sent + count)
    }

    /// Whether they are the next that were sent.
    mutating func follows(_ bytes: [UInt8]) -> Bool {
        defer { read += bytes.count }
        return bytes == Self.bytes(read..<read + bytes.count)
    }
}

/// How much a connection reads at once: 1000 bytes at first, four times as much whenever the peer has filled that, and
/// 65,536 at most.
@Suite("Connection, piece by piece")
struct ConnectionPieceTests {
    @Test("what is read at once grows as long as the peer fills it")
    func grows() throws {
        try withConnection { connection, peer in
            var stream = Stream()
            peer.send(stream.next(1))
            for piece in [1000, 4000, 16_000, 64_000, 65_536, 65_536] {
                peer.send(stream.next(piece))  // one byte more than is read, with the one that was left
                let bytes = try connection.read(upTo: 100_000)
                #expect(bytes.count == piece && stream.follows(bytes))
            }
        }
    }

    @Test("what is read at once stays as it is while the peer does not fill it", arguments: [1, 500, 999])
    func stays(short: Int) throws {
        try withConnection { connection, peer in
            var stream = Stream()
            for _ in 0..<5 {
                peer.send(stream.next(short))
                let bytes = try connection.read(upTo: 100_000)
                #expect(bytes.count == short && stream.follows(bytes))
            }
            peer.send(stream.next(1001))
            for count in [1000, 1] {
                let bytes = try connection.read(upTo: 100_000)
                #expect(bytes.count == count && stream.follows(bytes))
            }
        }
    }

    /// Around what is read at once, and around what that amounts to together.
    private static let borders = [1000, 4000, 5000, 16_000, 21_000, 64_000, 65_536, 85_000, 150_536].flatMap {
        [$0 - 1, $0, $0 + 1]
    }

    /// Has `count` bytes sent, then a line, both of which a first and a second `read` are to give.
    private func check(_ count: Int, ending: [UInt8] = [], _ read: (inout Connection, Int) throws -> [UInt8]) throws {
        try withConnection { connection, peer in
            for _ in 0..<2 {  // from the first piece on, and again as it has grown
                var stream = Stream()
                let bytes = stream.next(count - ending.count)
                let sender = Thread { peer.send(bytes + ending + Array("a line\n".utf8)) }
                let got = try read(&connection, count)
                sender.join()
                #expect(got.count == count && stream.follows(got.dropLast(ending.count)))
                #expect(got.suffix(ending.count) == ending[...])
                let line = try connection.readLine()
                #expect(line == Array("a line\n".utf8))
            }
        }
    }

    @Test("read(exactly:) at the borders of pieces", arguments: borders)
    func exactly(count: Int) throws {
        try check(count) { connection, count in try connection.read(exactly: count) }
    }

    @Test("readLine at the borders of pieces", arguments: borders)
    func line(count: Int) throws {
        try check(count, ending: [UInt8(ascii: "\n")]) { connection, _ in
            try connection.readLine(limit: 200_000) ?? []
        }
    }

    @Test("read(upTo:) at the borders of pieces", arguments: borders)
    func upTo(count: Int) throws {
        try check(count) { connection, count in
            var all: [UInt8] = []
            while all.count < count {
                let bytes = try connection.read(upTo: count - all.count)
                guard !bytes.isEmpty else { throw Failure("the stream ends after \(all.count) bytes") }
                all += bytes
            }
            return all
        }
    }

    @Test("read(exactly:) of 10 MB, between two lines")
    func large() throws {
        try withConnection { connection, peer in
            var stream = Stream()
            let bytes = stream.next(10 << 20)
            let sender = Thread {
                peer.send("first\n")
                peer.send(bytes)
                peer.send("last\n")
            }
            try expectEqual(connection.readLine(), Array("first\n".utf8))
            let got = try connection.read(exactly: bytes.count)
            #expect(got.count == bytes.count && stream.follows(got))
            try expectEqual(connection.readLine(), Array("last\n".utf8))
            sender.join()
        }
    }

    @Test("what a peer only promises takes no memory")
    func promised() throws {
        try withConnection { connection, peer in
            peer.send("abc")
            peer.finish()
            #expect(throws: ForkingError.endOfStream(received: 3, expected: 1 << 60)) {
                try connection.read(exactly: 1 << 60)
            }
            try expectEqual(connection.read(exactly: 3), Array("abc".utf8))
        }
    }
}
