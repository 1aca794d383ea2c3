// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// The program under test: the one just built, or what FORKSERVE_PROGRAM names, such as a release build.
var forkserveProgram: String {
    getenv("FORKSERVE_PROGRAM").map { String(cString: $0) } ?? builtProgram("forkserve")
}

/// A forkserve that says where it listens.
func forkserve(
    _ arguments: [String], environment: [String: String] = [:], inherited: [Int32: Int32] = [:], deadline: Double = 180
) throws -> (Running, address: String) {
    let running = try Running(
        forkserveProgram, arguments, environment: environment, inherited: inherited, deadline: deadline)
    return (running, try listeningAddress(of: running))
}

/// A forkserve that a shell's command line starts by `exec`; there its path is `$0`, and the arguments are `$1` and on.
func forkserve(shell script: String, _ arguments: [String] = [], inherited: [Int32: Int32] = [:]) throws -> (
    Running, address: String
) {
    let running = try Running("sh", ["-c", script, forkserveProgram] + arguments, inherited: inherited)
    return (running, try listeningAddress(of: running))
}

/// For bash (not every sh can close 10 and on): closes what we inherited from whoever runs the tests, and pass on.
let closingInherited = "for n in {3..255}; do eval \"exec $n>&-\"; done"

func listeningAddress(of running: Running) throws -> String {
    let prefix = "listening on "
    guard let line = try running.line(), line.hasPrefix(prefix) else {
        throw Failure("forkserve did not say where it listens: \(running.errors)")
    }
    return String(line.dropFirst(prefix.count))
}

/// Ends it as a service manager would; it must exit with 0 and leave nothing alive, and must have said nothing on
/// stdout but where it listened.
func stop(_ running: Running) throws {
    running.send(SIGTERM)
    #expect(try running.wait() == 0, "\(running.errors)")
    #expect(running.output.hasPrefix("listening on ") && running.output.filter { $0 == "\n" }.count == 1)
    try running.expectNothingAlive()
}

/// What became of a forkserve that must end by itself.
func outcome(_ arguments: [String], program: String = forkserveProgram) throws -> (
    status: Int32, output: String, errors: String
) {
    let running = try Running(program, arguments, deadline: 30)
    let status = try running.wait()
    try running.expectNothingAlive()
    return (status, running.output, running.errors)
}

/// The children of a process, zombies included, but for the one that only waits for its end.
func children(of pid: pid_t) -> [pid_t] { processes().filter { Process($0)?.parent == pid && !isWatcher($0) } }

/// Runs a program to its end, which must be a success; returns what it wrote on stdout.
@discardableResult
func run(_ program: String, _ arguments: [String], environment: [String: String] = [:]) throws -> String {
    let running = try Running(program, arguments, environment: environment, deadline: 120)
    let status = try running.wait()
    try expect(status == 0, "\(program) \(arguments) ended with \(status): \(running.errors)")
    return running.output
}

/// Bytes of every value, the same ones each time.
func someBytes(_ count: Int, seed: UInt64 = 1) -> [UInt8] {
    var state = seed
    return (0..<count).map { _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return UInt8(truncatingIfNeeded: state >> 56)
    }
}

func writeFile(_ path: String, _ bytes: [UInt8]) throws {
    let file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o644)
    try expect(file >= 0, "open \(path): \(String(cString: strerror(errno)))")
    defer { close(file) }
    var rest = bytes[...]
    while !rest.isEmpty {
        let count = rest.withUnsafeBytes { write(file, $0.baseAddress, $0.count) }
        try expect(count > 0, "write \(path): \(String(cString: strerror(errno)))")
        rest = rest.dropFirst(count)
    }
}

func fileExists(_ path: String) -> Bool { access(path, F_OK) == 0 }

extension Client {
    func send(bytes: [UInt8]) throws {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            try expect(count > 0, "send: \(String(cString: strerror(errno)))")
            rest = rest.dropFirst(count)
        }
    }

    /// Everything until the server closes, byte for byte.
    func receiveAllBytes() throws -> [UInt8] {
        var all: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 65_536)
        while true {
            let count = recv(descriptor, &piece, piece.count, 0)
            try expect(count >= 0, "recv: \(String(cString: strerror(errno)))")
            if count == 0 { return all }
            all += piece.prefix(count)
        }
    }

    /// Sends all of it, and then that this is all, while reading what comes back: neither end need take it all first.
    func exchange(_ bytes: [UInt8]) throws -> [UInt8] {
        var (rest, all) = (bytes[...], [UInt8]())
        var piece = [UInt8](repeating: 0, count: 65_536)
        while true {
            var polled = pollfd(fd: descriptor, events: Int16(rest.isEmpty ? POLLIN : POLLIN | POLLOUT), revents: 0)
            try expect(poll(&polled, 1, 20_000) == 1, "nothing came or went for 20 s")
            if polled.revents & Int16(POLLOUT) != 0, !rest.isEmpty {
                let count = rest.withUnsafeBytes {
                    Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL | MSG_DONTWAIT))
                }
                rest = rest.dropFirst(max(count, 0))
                if rest.isEmpty { finishSending() }
            }
            if polled.revents & Int16(POLLIN | POLLHUP) != 0 {
                let count = recv(descriptor, &piece, piece.count, 0)
                try expect(count >= 0, "recv: \(String(cString: strerror(errno)))")
                if count == 0 { return all }
                all += piece.prefix(count)
            }
        }
    }
}
