// SPDX-License-Identifier: Apache-2.0
//
// Worker: serves one connection.

import Forking
import Glibc

/// A minimal HTTP/1.1 server, to measure a pool and to try one: every request gets the same answer. Worker.
enum HTTPService {
    private static let answer = head(closing: false), lastAnswer = head(closing: true)
    /// Maximum length of a request's head, in bytes.
    private static let headLimit = 8192

    /// How long a request may take to arrive, from its first byte on.
    struct Limits {
        var head: Duration
        /// Including its body; nil: no limit.
        var request: Duration?
    }

    private static func head(closing: Bool) -> [UInt8] {
        Array(
            ("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n"
                + (closing ? "Connection: close\r\n" : "") + "\r\nhello\n").utf8)
    }

    /// Answers one request after the other until the client closes, or asks to close. A worker that must drain says so
    /// in its next answer, so that the client sends no request into a connection that closes.
    static func serve(_ connection: inout Connection, _ worker: Worker, _ limits: Limits) throws(ForkingError) {
        var bytes: [UInt8] = []
        do throws(ForkingError) {
            while let head = try readHead(&bytes, &connection, limits) {
                let request = worker.beginRequest(from: connection.peer)
                let isLast = head.isLast || head.isOpenEnded || worker.isDraining
                try connection.write(isLast ? lastAnswer : answer)
                worker.endRequest(request)
                if isLast { return }
            }
        } catch let error where error.code == .timedOut {
            // The worker can serve other clients.
        }
    }

    private struct Head {
        var isLast: Bool
        var bodyLength: Int
        /// The end of its body is not known, so what follows is not a request.
        var isOpenEnded = false
    }

    /// Reads the next request's head, and discards its body; what follows stays in `bytes`. Returns nil when the client
    /// has closed, also in the middle of a request.
    private static func readHead(
        _ bytes: inout [UInt8], _ connection: inout Connection, _ limits: Limits
    ) throws(ForkingError) -> Head? {
        // Set only if the request arrives in pieces.
        var began: Duration?
        defer { connection.limitReading(to: nil) }
        while true {
            // Empty lines before a request are ignored: RFC 9112, 2.2.
            if bytes.first == 13 || bytes.first == 10 { bytes = Array(bytes.drop { $0 == 13 || $0 == 10 }) }
            if let end = endOfHead(bytes) {
                guard end <= headLimit else { throw .lineTooLong(limit: headLimit) }
                let head = parse(bytes[..<end])
                bytes.removeSubrange(..<end)
                if head.bodyLength > bytes.count {
                    connection.limitReading(to: limits.request.map { $0 - (began.map { now - $0 } ?? .zero) })
                }
                return try skipBody(head.bodyLength, &bytes, &connection) ? head : nil
            }
            guard bytes.count < headLimit else { throw .lineTooLong(limit: headLimit) }
            if !bytes.isEmpty, began == nil {
                began = now
                connection.limitReading(to: min(limits.head, limits.request ?? limits.head))
            }
            let more = try connection.read()
            if more.isEmpty { return nil }
            if bytes.isEmpty { bytes = more } else { bytes += more }
        }
    }

    private static var now: Duration {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return .seconds(time.tv_sec) + .nanoseconds(time.tv_nsec)
    }

    private static func skipBody(
        _ length: Int, _ bytes: inout [UInt8], _ connection: inout Connection
    ) throws(ForkingError) -> Bool {
        var left = length
        while left > bytes.count {
            left -= bytes.count
            bytes = try connection.read()
            if bytes.isEmpty { return false }
        }
        bytes.removeSubrange(..<left)
        return true
    }

    /// The index after the empty line.
    private static func endOfHead(_ bytes: [UInt8]) -> Int? {
        bytes.withUnsafeBufferPointer { bytes in
            var index = 3
            while index < bytes.count {
                if bytes[index] == 10, bytes[index - 1] == 13, bytes[index - 2] == 10, bytes[index - 3] == 13 {
                    return index + 1
                }
                index += bytes[index] == 10 || bytes[index] == 13 ? 1 : 2
            }
            return nil
        }
    }

    private static func parse(_ head: ArraySlice<UInt8>) -> Head {
        head.withUnsafeBufferPointer { bytes in
            var head = Head(isLast: false, bodyLength: 0)
            var line = 0
            for index in bytes.indices where bytes[index] == 10 {
                read(UnsafeBufferPointer(rebasing: bytes[line..<index]), isFirst: line == 0, into: &head)
                line = index + 1
            }
            return head
        }
    }

    private static func read(_ line: UnsafeBufferPointer<UInt8>, isFirst: Bool, into head: inout Head) {
        if isFirst {
            head.isLast = value(line, behind: "HTTP/1.0", anywhere: true) != nil
        } else if let value = value(line, behind: "connection:") {
            if Self.value(value, behind: "close", anywhere: true) != nil { head.isLast = true }
            if Self.value(value, behind: "keep-alive", anywhere: true) != nil { head.isLast = false }
        } else if let value = value(line, behind: "content-length:") {
            let digits = value.drop { $0 == 32 }.prefix { (48...57).contains($0) }
            guard (1...15).contains(digits.count) else { return head.isOpenEnded = true }
            head.bodyLength = digits.reduce(0) { $0 * 10 + Int($1 - 48) }
        } else if Self.value(line, behind: "transfer-encoding:") != nil {
            head.isOpenEnded = true
        }
    }

    /// The text after `word` in a line that begins with it, or contains it anywhere. Ignores case.
    private static func value(
        _ line: UnsafeBufferPointer<UInt8>, behind word: StaticString, anywhere: Bool = false
    ) -> UnsafeBufferPointer<UInt8>? {
        let count = word.utf8CodeUnitCount
        guard line.count >= count else { return nil }
        for start in 0...(anywhere ? line.count - count : 0) {
            var length = 0
            while length < count, lower(line[start + length]) == lower(word.utf8Start[length]) { length += 1 }
            if length == count { return UnsafeBufferPointer(rebasing: line[(start + count)...]) }
        }
        return nil
    }

    private static func lower(_ byte: UInt8) -> UInt8 { (65...90).contains(byte) ? byte | 32 : byte }
}
