// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// A copy of forkserve that another program can be put in the place of.
private final class Copy {
    private let directory: TemporaryDirectory
    var path: String { directory.path + "/forkserve" }
    var socket: String { directory.path + "/socket" }

    init() throws {
        directory = try TemporaryDirectory()
        try restore()
    }

    func restore() throws { try put { try run("cp", [forkserveProgram, $0]) } }

    /// Puts a script there, or something that is none.
    func replace(with text: String, mode: mode_t = 0o755) throws {
        try put {
            try writeFile($0, Array(text.utf8))
            chmod($0, mode)
        }
    }

    /// By rename(2), as a program that runs cannot be written to.
    private func put(_ make: (String) throws -> Void) throws {
        try make(path + ".new")
        try expect(rename(path + ".new", path) == 0, "rename")
    }
}

/// A server and those that take its place, one after the other.
private final class Lineage {
    let first: Running
    let address: String
    /// The parent that serves now.
    private(set) var parent: pid_t
    private let copy: Copy

    init(_ copy: Copy, _ options: [String], at address: String = "127.0.0.1:0", environment: [String: String] = [:])
        throws
    {
        self.copy = copy
        (first, self.address) = try prefork(
            ["--workers", "2"] + options, at: address, environment: environment, program: copy.path)
        parent = first.pid
    }

    /// SIGUSR2, until the new one serves and the old one has ended.
    func upgrade() throws {
        let old = parent
        kill(old, SIGUSR2)
        try expect(try listeningAddress(of: first) == address, "another address")
        var next: pid_t?
        try eventually("the new one has no workers") {
            next = successor(of: old)  // kept: as the old one ends, it is for a moment nobody's
            return next != nil
        }
        parent = next!
        if old == first.pid {
            try expect(try first.wait() == 0, "\(first.errors)")
        } else {
            try eventually("the old one goes on") { Process(old).map(\.isZombie) ?? true }
        }
        try eventually("\(first.descendants)") { liveChildren(of: parent).count == 2 }
    }

    private func successor(of old: pid_t) -> pid_t? {
        first.descendants.first { $0 != old && Process($0)?.parent != old && liveChildren(of: $0).count == 2 }
            ?? children(of: old).first { liveChildren(of: $0).count == 2 }
    }

    /// Ends the newest, with which all end.
    func end() throws {
        kill(parent, SIGTERM)
        if parent == first.pid { #expect(try first.wait() == 0, "\(first.errors)") }
        try first.expectNothingAlive()
    }
}

@Suite("forkserve prefork: SIGUSR2")
struct PreforkUpgradeTests {
    @Test("under load, three times in a row: none is lost, and nobody is left", arguments: [1, 20])
    func chain(requestsEach: Int) throws {
        let lineage = try Lineage(Copy(), ["--http"])
        let load = Load(lineage.address, clients: 2, requestsEach: requestsEach)
        var descriptors: [Int] = []
        for _ in 0..<3 {
            try load.goOn(for: 50)
            try lineage.upgrade()
            try load.goOn(for: 50)
            descriptors.append(openDescriptors(of: lineage.parent).count)
        }
        #expect(load.end() == [])
        #expect(Set(descriptors).count == 1, "\(descriptors)")
        try lineage.end()
        #expect(throws: Failure.self) { try Client(lineage.address) }
    }

    @Test("a Unix socket's file outlives the old one, and goes with the new")
    func unixSocket() throws {
        let copy = try Copy()
        let lineage = try Lineage(copy, [], at: "unix:\(copy.socket)")
        let held = try Client(lineage.address)
        try held.echo("hello")
        kill(lineage.parent, SIGUSR2)
        #expect(try listeningAddress(of: lineage.first) == lineage.address)
        try held.echo("the old worker serves on")
        held.finishSending()
        #expect(try lineage.first.wait() == 0)
        #expect(fileExists(copy.socket))
        let client = try Client(lineage.address)
        try client.echo("hello")
        client.finishSending()
        #expect(try client.receiveAll() == "")
        for parent in lineage.first.descendants where children(of: parent).count == 2 { kill(parent, SIGTERM) }
        try lineage.first.expectNothingAlive()
        #expect(!fileExists(copy.socket))
    }

    @Test("a Unix socket's file that was removed is there again")
    func removedFile() throws {
        let copy = try Copy()
        let lineage = try Lineage(copy, [], at: "unix:\(copy.socket)")
        unlink(copy.socket)
        try lineage.upgrade()
        try Client(lineage.address).echo("hello")
        try lineage.end()
        #expect(!fileExists(copy.socket))
    }

    @Test("where the new program does not serve any more, clients are refused")
    func leftAddress() throws {
        let copy = try Copy()
        let lineage = try Lineage(copy, [])
        try copy.replace(
            with: "#!/bin/sh\nexec \(forkserveProgram) prefork --workers 1 unix:\(copy.socket)\n")
        lineage.first.send(SIGUSR2)
        #expect(try listeningAddress(of: lineage.first) == "unix:\(copy.socket)")
        #expect(try lineage.first.wait() == 0)
        #expect(throws: Failure.self) { try Client(lineage.address) }
        try Client("unix:\(copy.socket)").echo("hello")
        for parent in lineage.first.descendants where children(of: parent).count == 1 { kill(parent, SIGTERM) }
        try lineage.first.expectNothingAlive()
    }

    @Test("a socket that was handed over, whatever its number", arguments: ["systemd", "fd:3", "fd:7"])
    func handedOver(place: String) throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/socket"
        let socket = try boundSocket("unix:\(path)")
        defer { close(socket) }
        let handed = place == "systemd" ? "LISTEN_PID=$$ LISTEN_FDS=1" : ""
        let script = "\(handed) exec \"$0\" prefork --workers 1 \(place)"
        let (server, address) = try forkserve(shell: script, inherited: [3: socket, 7: socket])
        let before = sockets(of: try #require(children(of: server.pid).first))
        server.send(SIGUSR2)
        #expect(try listeningAddress(of: server) == address)
        #expect(try server.wait() == 0, "\(server.errors)")
        try Client(address).echo("hello")
        let worker = try #require(server.descendants.first { children(of: $0).isEmpty })
        // The word that it serves is the parent's alone.
        // Once the client's has closed.
        try eventually("\(sockets(of: worker))") { sockets(of: worker).count == before.count }
        for parent in server.descendants where !children(of: parent).isEmpty { kill(parent, SIGTERM) }
        try server.expectNothingAlive()
        #expect(fileExists(path))
    }

    private func sockets(of pid: pid_t) -> Set<String> {
        let opened = entries(of: "/proc/\(pid)/fd").compactMap { readLink("/proc/\(pid)/fd/\($0)") }
        return Set(opened.filter { $0.hasPrefix("socket:") })
    }

    private func readLink(_ path: String) -> String? {
        var buffer = [CChar](repeating: 0, count: 200)
        let count = readlink(path, &buffer, buffer.count)
        return count > 0 ? String(decoding: buffer.prefix(count).map(UInt8.init(bitPattern:)), as: UTF8.self) : nil
    }

    /// What stands in the new program's place, how it is allowed to be used, and what is said of it.
    static let broken: [(text: String, mode: mode_t, told: String)] = [
        ("#!/bin/sh\nexit 1\n", 0o755, ": exited with status 1 after"),
        ("#!/bin/sh\nexit 0\n", 0o755, ": exited with status 0 after"),
        ("#!/bin/sh\nexec sleep 1000\n", 0o755, ": it was not ready in time"),
        ("#!/bin/sh\nexit 1\n", 0o644, "cannot be executed: Permission denied"),
        ("#!/no/such/interpreter\n", 0o755, "cannot be executed: No such file or directory"),
    ]

    @Test("a broken new program changes nothing, and a good one is still taken after it")
    func broken() throws {
        let copy = try Copy()
        let lineage = try Lineage(copy, ["--http", "--start-timeout", "1"])
        let load = Load(lineage.address, clients: 1)
        let workers = liveChildren(of: lineage.parent)
        let descriptors = openDescriptors(of: lineage.parent).count
        for (text, mode, told) in Self.broken {
            try copy.replace(with: text, mode: mode)
            lineage.first.send(SIGUSR2)
            try lineage.first.waitForError(told)
            try load.goOn(for: 20)
            try eventually("\(children(of: lineage.parent))") { Set(children(of: lineage.parent)) == workers }
        }
        #expect(openDescriptors(of: lineage.parent).count == descriptors)
        try copy.restore()
        try lineage.upgrade()
        try load.goOn(for: 20)
        #expect(load.end() == [])
        try lineage.end()
    }

    @Test("SIGTERM while the new one starts ends both")
    func stoppedMeanwhile() throws {
        let copy = try Copy()
        let lineage = try Lineage(copy, ["--verbose"])
        try copy.replace(with: "#!/bin/sh\nexec sleep 1000\n")
        lineage.first.send(SIGUSR2)
        try lineage.first.waitForError("upgrading: started")
        lineage.first.send(SIGUSR2)
        try lineage.first.waitForError("is still starting")
        try lineage.end()
    }

    // MARK: The service manager

    @Test("a service manager is told of it all")
    func notified() throws {
        let copy = try Copy()
        let manager = try Manager(copy.socket)
        let lineage = try Lineage(
            copy, [], environment: ["NOTIFY_SOCKET": copy.socket, "WATCHDOG_USEC": "200000"])
        try manager.expect("READY=1", from: lineage.parent)
        try manager.expect("WATCHDOG=1", from: lineage.parent)
        kill(lineage.parent, SIGHUP)
        try manager.expect("RELOADING=1", from: lineage.parent)
        try manager.expect("READY=1", from: lineage.parent)
        let old = lineage.parent
        try manager.hearing { try lineage.upgrade() }
        try manager.expect("WATCHDOG=1", from: lineage.parent)
        let told = manager.heard.firstIndex {
            $0.pid == old && $0.text.split(separator: "\n").contains("MAINPID=\(lineage.parent)")
        }
        let first = manager.heard.firstIndex { $0.pid == lineage.parent }
        #expect(try #require(told) < #require(first), "it speaks before it is the main process")
        let client = try Client(lineage.address)
        try client.echo("hello")
        kill(lineage.parent, SIGTERM)
        try manager.expect("STOPPING=1", from: lineage.parent)
        for _ in 0..<2 { try manager.expect("WATCHDOG=1", from: lineage.parent) }
        client.finishSending()
        try lineage.first.expectNothingAlive()
        #expect(!manager.heard.contains { $0.text == "STOPPING=1" && $0.pid == old })
        #expect(manager.heard.contains { $0.text == "READY=1" && $0.pid == lineage.parent })
    }
}
