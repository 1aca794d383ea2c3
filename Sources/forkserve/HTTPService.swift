// SPDX-License-Identifier: Apache-2.0

import Forking

/// As much of HTTP/1.1 as it takes to measure a pool, and to see one at work: every request gets the same answer. Worker.
enum HTTPService {
    private static let answer = head(closing: false), lastAnswer = head(closing: true)

    private static func head(closing: Bool) -> [UInt8] {
        Array(
            ("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n"
                + (closing ? "Connection: close\r\n" : "") + "\r\nhello\n").utf8)
    }

    /// Answers one request after the other until the client closes, or wants to be the last. A worker that should drain says
    /// so in its next answer: a client that reads it sends nothing into a connection that closes.
    static func serve(_ connection: inout Connection, _ worker: Worker) throws(ForkingError) {
        var isFirst = true
        while let first = try connection.readLine(limit: 8192) {
            if !isFirst { worker.requestBegan(from: connection.peer) }
            let isLast = try !readHead(&connection, after: first) || worker.isDraining
            try connection.write(isLast ? lastAnswer : answer)
            if isLast { return }
            worker.requestEnded()
            isFirst = false
        }
    }

    /// Reads a request's head, and its body away; whether the client wants to send another.
    private static func readHead(_ connection: inout Connection, after first: [UInt8]) throws(ForkingError) -> Bool {
        var keepsAlive = !ends(first, "HTTP/1.0")
        var body = 0
        while let line = try connection.readLine(limit: 8192), line.count > 2 {
            if let value = value(of: "connection:", in: line) {
                if contains(value, "close") { keepsAlive = false }
                if contains(value, "keep-alive") { keepsAlive = true }
            } else if let value = value(of: "content-length:", in: line) {
                body = Int(String(decoding: value, as: UTF8.self)) ?? 0
            }
        }
        if body > 0 { _ = try connection.read(exactly: min(body, 1 << 20)) }
        return keepsAlive
    }

    /// What stands behind a field's name, which is given in lower case with its colon.
    private static func value(of name: StaticString, in line: [UInt8]) -> ArraySlice<UInt8>? {
        guard line.count > name.utf8CodeUnitCount, begins(line[...], name) else { return nil }
        let isSpace = { (byte: UInt8) in byte == 32 || byte == 9 || byte == 13 || byte == 10 }
        let value = line.dropFirst(name.utf8CodeUnitCount).drop(while: isSpace)
        return value.prefix { !isSpace($0) || $0 == 32 }
    }

    private static func ends(_ line: [UInt8], _ text: StaticString) -> Bool {
        let end = line.suffix(text.utf8CodeUnitCount + 2).prefix(text.utf8CodeUnitCount)
        return end.elementsEqual(UnsafeBufferPointer(start: text.utf8Start, count: text.utf8CodeUnitCount))
    }

    private static func contains(_ value: ArraySlice<UInt8>, _ word: StaticString) -> Bool {
        value.indices.contains { begins(value[$0...], word) }
    }

    /// In whichever case; `word` is in lower case.
    private static func begins(_ bytes: ArraySlice<UInt8>, _ word: StaticString) -> Bool {
        let word = UnsafeBufferPointer(start: word.utf8Start, count: word.utf8CodeUnitCount)
        guard bytes.count >= word.count else { return false }
        return zip(bytes, word).allSatisfy { byte, expected in
            byte == expected || ((65...90).contains(byte) && byte | 32 == expected)
        }
    }
}
