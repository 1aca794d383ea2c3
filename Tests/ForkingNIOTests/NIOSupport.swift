// SPDX-License-Identifier: Apache-2.0

import Glibc
import Synchronization
import TestSupport

/// A nioserver, and the socket that it listens on; ours too, so that nobody is ever refused.
final class Served {
    let running: Running
    let address: String
    let socket: Int32

    init(_ arguments: [String], backlog: Int32 = 1024, program: String = builtProgram("nioserver")) throws {
        (socket, address) = try listeningSocket(backlog: backlog)
        running = try Running(program, arguments, inherited: [3: socket])
    }

    init(shell script: String, _ arguments: [String]) throws {
        (socket, address) = try listeningSocket(backlog: 1024)
        running = try Running("sh", ["-c", script, builtProgram("nioserver")] + arguments, inherited: [3: socket])
    }

    deinit { close(socket) }

    var workers: [pid_t] { processes().filter { Process($0)?.parent == running.pid && Process($0)?.isZombie == false } }

    func stop() throws {
        running.send(SIGTERM)
        try expect(try running.wait() == 0, running.errors)
        try running.expectNothingAlive()
    }
}

private func listeningSocket(backlog: Int32) throws -> (Int32, address: String) {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let code = withUnsafeMutablePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, length) | listen(descriptor, backlog) | getsockname(descriptor, $0, &length)
        }
    }
    try expect(code == 0, "a listening socket: \(String(cString: strerror(errno)))")
    return (descriptor, "127.0.0.1:\(UInt16(bigEndian: address.sin_port))")
}

/// A client of HTTP/1.1 on one connection.
final class HTTPClient {
    struct Answer {
        var body: String
        var saysClose: Bool
    }

    let client: Client
    private var unread = ""

    init(_ address: String) throws { client = try Client(address) }

    func ask(_ path: String = "/", close: Bool = false) throws {
        try client.send("GET \(path) HTTP/1.1\r\nHost: x\r\n\(close ? "Connection: close\r\n" : "")\r\n")
    }

    /// Nil if the connection ends before a byte of an answer.
    func answer() throws -> Answer? {
        func more() throws -> Bool {
            let piece = try client.receive()
            unread += piece
            return !piece.isEmpty
        }
        while !unread.contains("\r\n\r\n") {
            guard try more() else {
                try expect(unread.isEmpty, "the answer ends in its head: \(unread)")
                return nil
            }
        }
        let parts = unread.split(separator: "\r\n\r\n", maxSplits: 1, omittingEmptySubsequences: false)
        let lines = parts[0].lowercased().split(separator: "\r\n")
        let length = Int(lines.first { $0.hasPrefix("content-length: ") }!.dropFirst("content-length: ".count))!
        let start = parts[0].utf8.count + 4
        while unread.utf8.count < start + length { try expect(try more(), "the answer ends in its body: \(unread)") }
        let body = String(decoding: unread.utf8.dropFirst(start).prefix(length), as: UTF8.self)
        unread = String(decoding: unread.utf8.dropFirst(start + length), as: UTF8.self)
        return Answer(body: body, saysClose: lines.contains("connection: close"))
    }
}

/// Clients that ask and ask, each on a thread of its own.
final class Load: @unchecked Sendable {
    private struct State {
        var answers: [String: Int] = [:]
        var failures: [String] = []
        var isOver = false
    }

    private let state = Mutex(State())
    private var threads: [pthread_t] = []
    private let address: String
    private let closing: Bool

    init(_ address: String, clients: Int, closing: Bool) {
        (self.address, self.closing) = (address, closing)
        for _ in 0..<clients {
            var thread = pthread_t()
            pthread_create(
                &thread, nil,
                {
                    Unmanaged<Load>.fromOpaque($0!).takeRetainedValue().run()
                    return nil
                }, Unmanaged.passRetained(self).toOpaque())
            threads.append(thread)
        }
    }

    var answers: [String: Int] { state.withLock { $0.answers } }
    var count: Int { answers.values.reduce(0, +) }
    var failures: [String] { state.withLock { $0.failures } }

    func finish() {
        state.withLock { $0.isOver = true }
        for thread in threads { pthread_join(thread, nil) }
        threads = []
    }

    private func run() {
        var connection: HTTPClient?
        while !state.withLock({ $0.isOver }) {
            do {
                let current = try connection ?? HTTPClient(address)
                connection = current
                try current.ask(close: closing)
                guard let answer = try current.answer() else { throw Failure("closed without an answer") }
                state.withLock { $0.answers[answer.body, default: 0] += 1 }
                try expect(answer.saysClose || !closing, "the answer does not say close")
                if answer.saysClose {
                    try expect(try current.answer() == nil, "the connection is not closed")
                    connection = nil
                }
            } catch {
                connection = nil
                state.withLock { $0.failures.append("\(error)") }
            }
        }
    }
}
