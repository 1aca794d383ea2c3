// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@testable import Forking

@Suite("A server's status, from one process to another")
struct StatusTests {
    private let whole = try! ServerStatus(
        shape: .prefork, pid: 7, addresses: [SocketAddress(parsing: "[::1]:80"), SocketAddress(unix: "/a b\n\"\u{1}")],
        age: .nanoseconds(12), phase: .stopping, maxProcesses: 3, wanted: 2,
        processes: [
            ServerStatus.Process(
                pid: 9, number: 0, state: .busy, requests: .max, inState: .zero, age: .seconds(1 << 30),
                peer: SocketAddress(unix: "@x y")),
            ServerStatus.Process(pid: 8, state: .ending, age: .seconds(2)),
        ])

    private func text(of status: ServerStatus) -> [UInt8] {
        var text: [UInt8] = []
        status.writeBeginning(to: &text)
        for process in status.processes { process.write(to: &text) }
        ServerStatus.writeEnd(to: &text)
        return text
    }

    @Test("what was written is read back, addresses byte for byte")
    func roundTrip() throws {
        expectEqual(try ServerStatus(text: text(of: whole)), whole)
        var bare = whole
        (bare.shape, bare.phase, bare.wanted, bare.addresses, bare.processes) = (.forking, .serving, nil, [], [])
        expectEqual(try ServerStatus(text: text(of: bare)), bare)
    }

    @Test("processes are read oldest first; what a newer server adds is passed over")
    func tolerant() throws {
        var lines = text(of: whole).split(separator: 10).map { String(decoding: $0, as: UTF8.self) }
        lines.swapAt(lines.count - 2, lines.count - 3)
        lines[lines.count - 2] += " more"
        lines.insert("weather fine today", at: 1)
        expectEqual(try ServerStatus(text: Array((lines.joined(separator: "\n") + "\n").utf8)), whole)
    }

    @Test("no beginning of it, and nothing that lacks a line, is taken for all")
    func cutOff() {
        let all = text(of: whole)
        for count in 0..<all.count {
            #expect(refusal { try ServerStatus(text: Array(all[..<count])) } != nil, "\(count)")
        }
        for key in ["shape", "pid", "phase", "age", "limit", "wanted"] {
            let lines = all.split(separator: 10).filter { !$0.starts(with: key.utf8) }
            #expect(
                refusal { try ServerStatus(text: Array(lines.joined(separator: [10])) + [10]) } == "a line is missing")
        }
    }

    @Test(
        "what makes no sense is refused, and where is said",
        arguments: [
            "process", "process 1", "process 1 0 idle 0 0 0", "process -1 0 idle 0 0 0 -", "process 1 0 flying 0 0 0 -",
            "process 1 0 idle 0 0 - -", "process 1 0 idle 0 0 0 02", "process 1 0 idle 0 0 0 0", "pid", "",
            "process 1 0 idle 99999999999999999999 0 0 -", "process 1 0 idle 0 -5 0 -",
            "process 99999999999 0 idle 0 0 0 -",
            "address -", "address zz", "address +1", "address 0200", "address 0", "address \u{fffd}",
            "address " + String(repeating: "01", count: 129), "address " + String(repeating: "01", count: 100_000),
        ])
    func garbage(line: String) {
        let text = text(of: whole).dropLast(4) + Array((line + "\nend\n").utf8)
        #expect(refusal { try ServerStatus(text: Array(text)) } == "line 12 is not understood")
    }

    @Test("random damage is read or refused, and no more")
    func damage() {
        let all = text(of: whole)
        var generator = SystemRandomNumberGenerator()
        for _ in 0..<3000 {
            var text = all
            for _ in 0..<3 {
                text[Int.random(in: text.indices, using: &generator)] = .random(in: 0...255, using: &generator)
            }
            _ = try? ServerStatus(text: text)
        }
    }

    // MARK: Who answers

    /// What is said of a server that does `answer` on its end of a connection.
    private func reading(_ answer: (Int32) throws -> Void) throws -> String? {
        var ends: [Int32] = [-1, -1]
        try expect(
            socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0, &ends) == 0, "socketpair")
        defer { close(ends[1]) }
        var timeout = timeval(tv_sec: 0, tv_usec: 100_000)
        setsockopt(ends[1], SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        try answer(ends[0])
        close(ends[0])
        let address = try SocketAddress(unix: "/x")
        return refusal { try ServerStatus.read(on: ends[1], of: address) }
    }

    @Test("another server's answer, or none, is an error")
    func others() throws {
        #expect(try reading { send($0, "220 hello", 9, 0) }?.contains("not a control socket") == true)
        #expect(try reading { _ in }?.contains("closed without an answer") == true)
    }

    @Test("a file that is none, one without an end, and one of another kind are refused, and not waited for")
    func files() throws {
        let ends = try pipe()
        defer { for end in [ends.read, ends.write] { close(end) } }
        #expect(try reading { try ControlSocket.handOver(ends.read, on: $0) }?.contains("regular file") == true)
        let directory = try TemporaryDirectory()
        let file = open(directory.path + "/file", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
        defer { close(file) }
        #expect(try reading { try ControlSocket.handOver(file, on: $0) }?.contains("does not begin with") == true)
        try expect(ftruncate(file, 1 << 40) == 0, "ftruncate")
        #expect(try reading { try ControlSocket.handOver(file, on: $0) }?.contains("has 1099511627776 bytes") == true)
    }

    @Test("one that does not answer is waited for no longer than asked")
    func silent() throws {
        let directory = try TemporaryDirectory()
        let address = try SocketAddress(unix: directory.path + "/s")
        let listener = try Listener(address)
        let before = now()
        #expect(throws: ForkingError.timedOut) { try ServerStatus.read(from: address, timeout: .milliseconds(100)) }
        #expect(now() - before < 30)
        withExtendedLifetime(listener.descriptor) {}
    }

    @Test("what cannot be asked is said")
    func unreachable() throws {
        let nowhere = try SocketAddress(unix: "/nonexistent/s")
        expectEqual(
            refusal { try ServerStatus.read(from: nowhere) }, "connect unix:/nonexistent/s: No such file or directory")
        let port = try SocketAddress(parsing: "127.0.0.1:1")
        #expect(refusal { try ServerStatus.read(from: port) }?.contains("not a Unix socket") == true)
        #expect(refusal { try ServerStatus.read(from: nowhere, timeout: .zero) }?.contains("must be positive") == true)
    }

    @Test("a control socket is a Unix socket")
    func configuration() throws {
        let port = try SocketAddress(parsing: "127.0.0.1:1")
        var forking = ForkingServer.Configuration()
        forking.control = port
        var prefork = PreforkServer.Configuration()
        prefork.control = port
        #expect(refusal { try forking.checked() }?.contains("must be a Unix socket's address") == true)
        #expect(refusal { try prefork.checked() }?.contains("must be a Unix socket's address") == true)
    }
}
