// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve and its service manager")
struct ManagerTests {
    private let directory = try! TemporaryDirectory()
    private var socket: String { directory.path + "/notify" }

    /// A server that sends lines back.
    static let commands = ["echo", "exec", "prefork --workers 2"]

    private func serve(
        _ command: String, _ options: [String] = [], at address: String = "127.0.0.1:0", program: String = "cat",
        environment: [String: String] = [:]
    ) throws -> (Running, address: String) {
        let words = command.split(separator: " ").map(String.init) + options + [address]
        return try forkserve(
            words + (command == "exec" ? ["--", program] : []),
            environment: ["NOTIFY_SOCKET": socket].merging(environment) { $1 })
    }

    @Test("it is told of the start, of the clients, that nothing is stuck, and of the end", arguments: commands)
    func life(command: String) throws {
        let manager = try Manager(socket)
        let (server, address) = try serve(
            command, ["--drain-timeout", "30", "--kill-timeout", "2"], environment: ["WATCHDOG_USEC": "200000"])
        let isPool = command.hasPrefix("prefork")
        try manager.expect("READY=1", from: server.pid)
        // Said once, and often before the second of the others.
        try manager.expect(isPool ? "STATUS=2 of 2 workers" : "STATUS=0 of 40 clients", from: server.pid)
        for _ in 0..<2 { try manager.expect("WATCHDOG=1", from: server.pid) }
        let client = try Client(address)
        try client.echo("hello")
        if !isPool { try manager.expect("STATUS=1 of 40 clients", from: server.pid) }
        server.send(SIGTERM)
        try manager.expect("STOPPING=1", from: server.pid)
        #expect(manager.heard.last?.text == "STOPPING=1\nEXTEND_TIMEOUT_USEC=33000000")
        for _ in 0..<2 { try manager.expect("WATCHDOG=1", from: server.pid) }
        try client.echo("while it drains")
        server.send(SIGTERM)
        try manager.expect("EXTEND_TIMEOUT_USEC=3000000", from: server.pid)
        #expect(try server.wait() == 0, "\(server.errors)")
        #expect(manager.heard.count { $0.text == "READY=1" } == 1)
        #expect(!manager.heard.contains { $0.pid != server.pid }, "\(manager.heard)")
        try server.expectNothingAlive()
    }

    @Test("a full server says who waits, and that it is not stuck")
    func full() throws {
        let manager = try Manager(socket)
        let (server, address) = try serve("echo", ["--max-children", "1"], environment: ["WATCHDOG_USEC": "200000"])
        let clients = try (0..<3).map { _ in try Client(address) }
        try clients[0].echo("hello")
        try manager.expect("STATUS=1 of 1 clients, 2 wait", from: server.pid)
        for _ in 0..<2 { try manager.expect("WATCHDOG=1", from: server.pid) }
        for client in clients { client.finishSending() }
        for client in clients { #expect(try client.receiveAll() == "") }
        try manager.expect("STATUS=0 of 1 clients", from: server.pid)
        try stop(server)
    }

    @Test("an idle server makes no system call for its sake", arguments: commands)
    func idle(command: String) throws {
        let manager = try Manager(socket)
        let (server, _) = try serve(command)
        try manager.hear("a status") { text, _ in text.hasPrefix("STATUS=\(command.hasPrefix("prefork") ? 2 : 0) of") }
        func switches() -> Substring? {
            contents(of: "/proc/\(server.pid)/status")?.split(separator: "\n").first { $0.hasPrefix("voluntary") }
        }
        // It sleeps again once it has said so; afterwards a second must pass in which it could wake up.
        usleep(300_000)
        let before = switches()
        usleep(1_500_000)
        #expect(switches() == before)
        try stop(server)
    }

    @Test("what its full queue did not take is said later", arguments: commands)
    func fullQueue(command: String) throws {
        let manager = try Manager(socket)
        try manager.fill()
        let (server, address) = try serve(command)
        try Client(address).echo("it serves all the same")
        try manager.expect("READY=1", from: server.pid)
        try stop(server)
    }

    @Test("neither programs nor workers' programs can speak in its name")
    func variables() throws {
        let manager = try Manager(socket)
        let (server, address) = try serve(
            "exec", program: "/usr/bin/env", environment: ["WATCHDOG_USEC": "200000000", "KEPT": "yes"])
        try manager.expect("READY=1", from: server.pid)
        let variables = try Client(address).receiveAll()
        #expect(variables.contains("KEPT=yes\n"))
        for name in ["NOTIFY_SOCKET", "WATCHDOG"] { #expect(!variables.contains(name), "\(variables)") }
        try stop(server)
    }

    @Test("without one, or where nobody listens, everything else is as ever", arguments: commands)
    func nobody(command: String) throws {
        let (server, address) = try serve(command)
        try Client(address).echo("hello")
        try stop(server)
        #expect(server.errors == "")
    }

    // MARK: Upgrades

    /// The parent that serves on the sockets now.
    private func successor(of server: Running, _ manager: Manager) throws -> pid_t {
        try manager.hear("MAINPID=") { text, pid in pid == server.pid && text.hasPrefix("MAINPID=") }
        return try #require(pid_t(manager.heard.last!.text.split(separator: "\n")[0].dropFirst("MAINPID=".count)))
    }

    @Test(
        "an upgrade: the new program is nobody's child before it is the main one, and silent until then",
        arguments: commands)
    func upgrade(command: String) throws {
        let manager = try Manager(socket)
        let (server, address) = try serve(command, ["--drain-timeout", "60"], environment: ["WATCHDOG_USEC": "200000"])
        let held = try Client(address)
        try held.echo("before")
        server.send(SIGUSR2)
        let new = try successor(of: server, manager)
        #expect(Process(new)!.parent != server.pid && Process(Process(new)!.parent)?.parent != server.pid)
        #expect(!manager.heard.contains { $0.pid == new }, "\(manager.heard)")
        try manager.expect("READY=1", from: new)
        try manager.expect("WATCHDOG=1", from: new)
        #expect(try listeningAddress(of: server) == address)
        // By the new one, or by an old worker that was woken for it just before it was to drain.
        let brief = try Client(address)
        try brief.echo("at once")
        brief.finishSending()
        #expect(try brief.receiveAll() == "")
        try held.echo("and the old one serves on")
        held.finishSending()
        #expect(try held.receiveAll() == "" && server.wait() == 0, "\(server.errors)")
        #expect(!manager.heard.contains { $0.pid == server.pid && $0.text.hasPrefix("STOPPING") })
        let client = try Client(address)
        try client.echo("still")
        kill(new, SIGTERM)
        try manager.hear("STOPPING=1") { text, pid in pid == new && text.hasPrefix("STOPPING=1\n") }
        client.finishSending()
        try server.expectNothingAlive()
    }

    @Test(
        "the old one does not end before the manager knows of the new one, though its queue is full",
        arguments: commands)
    func fullAtUpgrade(command: String) throws {
        let manager = try Manager(socket)
        let (server, address) = try serve(command, ["--verbose"])
        try manager.expect("READY=1", from: server.pid)
        try manager.fill()
        server.send(SIGUSR2)
        #expect(try listeningAddress(of: server) == address)
        try server.waitForError("stopping: draining")
        usleep(500_000)  // nobody is left to be served
        let new = try successor(of: server, manager)
        try manager.expect("READY=1", from: new)
        #expect(try server.wait() == 0, "\(server.errors)")
        try Client(address).echo("from the new one")
        kill(new, SIGTERM)
        try server.expectNothingAlive()
    }

    @Test("a new main process that dies: the old one ends at once, however long it was to drain", arguments: commands)
    func lost(command: String) throws {
        let manager = try Manager(socket)
        let (server, address) = try serve(command, ["--drain-timeout", "1000"])
        let held = try Client(address)
        try held.echo("before")
        server.send(SIGUSR2)
        let new = try successor(of: server, manager)
        try manager.expect("READY=1", from: new)
        kill(new, SIGKILL)
        try server.waitForError("not upgraded: the new program, \(new), ended while this one drains")
        #expect(try held.receiveAll() == "" && server.wait() == 0, "\(server.errors)")
        try server.expectNothingAlive()
    }
}
