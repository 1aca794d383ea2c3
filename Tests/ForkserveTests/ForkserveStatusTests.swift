// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

import class Foundation.JSONDecoder
import struct Foundation.Data

@Suite("forkserve status, and --control")
struct StatusTests {
    private let directory = try! TemporaryDirectory()
    private var control: String { directory.path + "/control" }

    private func served(_ arguments: [String]) throws -> (Running, address: String) {
        try forkserve(arguments.prefix(1) + ["--control", control] + arguments.dropFirst())
    }

    private func status(_ options: String...) throws -> String {
        try run(forkserveProgram, ["status"] + options + [control])
    }

    private func shown() throws -> Shown { try Shown(status("--json")) }

    // MARK: What it shows

    @Test("a pool's workers: what they do, for whom, how many requests they have begun")
    func pool() throws {
        let (server, address) = try served(["prefork", "--workers", "2", "127.0.0.1:0"])
        var all = try shown()
        #expect(all.shape == "prefork" && all.pid == server.pid && all.addresses == [address] && all.phase == "serving")
        #expect(all.limit == 2 && all.wanted == 2 && Set(all.processes.map(\.pid)) == Set(children(of: server.pid)))
        #expect(all.processes.allSatisfy { $0.state == "idle" && $0.requests == 0 && $0.peer == nil })
        #expect(all.processes.allSatisfy { $0.memoryKib! > 0 && $0.ageSeconds >= $0.inStateSeconds! })
        #expect(all.processes.map(\.number).sorted { $0! < $1! } == [0, 1])
        for round in 1...3 {
            let client = try Client(address)
            try client.echo("hello")
            all = try shown()
            let busy = all.processes.filter { $0.state == "busy" }
            #expect(busy.count == 1 && busy[0].peer == "127.0.0.1:\(client.port)")
            #expect(all.processes.reduce(0) { $0 + $1.requests! } == round)
            client.finishSending()
            #expect(try client.receive() == "")
            try eventually("still busy") { try shown().processes.allSatisfy { $0.state == "idle" } }
        }
        try stop(server)
    }

    @Test("the table has a heading and a line of as many words for each; SIGUSR1 prints it without the memory")
    func table() throws {
        let (server, address) = try served(["prefork", "--workers", "3", "127.0.0.1:0"])
        let client = try Client(address)
        try client.echo("hello")
        let lines = try status().split(separator: "\n")
        #expect(lines[0].hasPrefix("prefork server \(server.pid) on \(address), serving for "))
        #expect(lines[0].hasSuffix(", workers: 3 of 3"))
        let words = lines.dropFirst().map { $0.split(separator: " ") }
        #expect(words[0] == ["PID", "NUMBER", "STATE", "REQUESTS", "FOR", "AGE", "MEMORY", "PEER"])
        #expect(words.count == 4 && words.allSatisfy { $0.count == 8 })
        #expect(Set(words.dropFirst().compactMap { pid_t($0[0]) }) == Set(children(of: server.pid)))
        let busy = words.filter { $0[2] == "busy" }
        #expect(busy.count == 1 && busy[0][3] == "1" && busy[0][7] == "127.0.0.1:\(client.port)")
        server.send(SIGUSR1)
        try server.waitForError("  127.0.0.1:\(client.port)\n")
        #expect(server.errors.contains("PID  NUMBER  STATE  REQUESTS  ") && !server.errors.contains("MEMORY"))
        client.finishSending()
        try stop(server)
    }

    @Test("a worker over its --timeout is stuck until it has ended; then another has its place")
    func stuck() throws {
        let options = ["--workers", "1", "--timeout", "1.5", "--kill-timeout", "100"]
        let (server, address) = try served(["prefork"] + options + ["127.0.0.1:0"])
        let client = try Client(address)
        try client.echo("hello")
        let pid = children(of: server.pid)[0]
        kill(pid, SIGSTOP)  // SIGABRT comes, and does not end it yet
        try eventually("not stuck") { try shown().processes.contains { $0.pid == pid && $0.state == "stuck" } }
        let worker = try shown().processes.first { $0.pid == pid }
        #expect(worker?.peer == "127.0.0.1:\(client.port)" && worker!.inStateSeconds! >= 1.5)
        kill(pid, SIGCONT)
        try eventually("no other") {
            let processes = try shown().processes
            return processes.count == 1 && processes[0].pid != pid && processes[0].state == "idle"
        }
        try stop(server)
    }

    @Test("while it drains it answers, and says so", arguments: ["echo", "prefork"])
    func draining(command: String) throws {
        let (server, address) = try served([command, "--drain-timeout", "100", "127.0.0.1:0"])
        let client = try Client(address)
        try client.echo("hello")
        server.send(SIGTERM)
        try eventually("not stopping") { try shown().phase == "stopping" }
        let busy = try shown().processes.first { $0.peer == "127.0.0.1:\(client.port)" }
        #expect(busy?.state == (command == "echo" ? "serving" : "draining"))
        client.finishSending()
        #expect(try server.wait() == 0)
        try server.expectNothingAlive()
        #expect(!fileExists(control))
    }

    @Test("a server's children: who serves whom")
    func forked() throws {
        let (server, address) = try served(["echo", "--max-children", "9", "127.0.0.1:0"])
        let clients = try (0..<3).map { _ in try Client(address) }
        for client in clients { try client.echo("hello") }
        let all = try shown()
        #expect(all.shape == "forking" && all.limit == 9 && all.wanted == nil && all.addresses == [address])
        let serving = all.processes.filter { $0.state == "serving" }
        #expect(Set(serving.map(\.peer)) == Set(clients.map { "127.0.0.1:\($0.port)" }))
        #expect(serving.allSatisfy { $0.number == nil && $0.requests == nil && $0.memoryKib! > 0 })
        let words = try status().split(separator: "\n")[1].split(separator: " ")
        #expect(words == ["PID", "STATE", "FOR", "AGE", "MEMORY", "PEER"])
        for client in clients { client.finishSending() }
        try stop(server)
    }

    @Test("a program over its --timeout that heeds no SIGTERM is ending")
    func ending() throws {
        let options = ["--timeout", "0.2", "--kill-timeout", "100", "127.0.0.1:0", "--"]
        let (server, address) = try served(["exec"] + options + ["sh", "-c", "trap '' TERM; echo ready; cat"])
        let client = try Client(address)
        #expect(try client.receive() == "ready\n")
        try eventually("not ending") { try shown().processes.map(\.state) == ["ending"] }
        client.finishSending()
        try stop(server)
    }

    @Test("300 children are 300 lines, and any address is told as it is")
    func many() throws {
        let address = "unix:\(directory.path)/a \"b\\\n\u{1}ü"
        let server = try Running(
            forkserveProgram,
            ["echo", "--control", control, "--max-children", "300", address])
        _ = try listeningAddress(of: server)
        let clients = try (0..<300).map { _ in try Client(address) }
        try eventually(within: 60, "not 300") { children(of: server.pid).count == 300 }
        let all = try shown()
        #expect(all.addresses == [address] && all.processes.count == 300 && Set(all.processes.map(\.pid)).count == 300)
        #expect(all.processes.allSatisfy { $0.state == "serving" })
        #expect(try status().split(separator: "\n").count == 302)
        for client in clients { client.finishSending() }
        server.send(SIGTERM)
        #expect(try server.wait() == 0)
        try server.expectNothingAlive()
    }

    // MARK: The socket

    @Test("it is this user's alone, whatever the umask, and removed at the end")
    func file() throws {
        let (server, _) = try forkserve(
            shell: "umask 0; exec \"$0\" \"$@\"", ["prefork", "--control", "unix:" + control, "127.0.0.1:0"])
        var found = stat()
        #expect(lstat(control, &found) == 0 && found.st_mode & S_IFMT == S_IFSOCK && found.st_mode & 0o7777 == 0o600)
        try stop(server)
        #expect(!fileExists(control))
    }

    @Test("one with an abstract name answers this user, and no other but root", .needs("socat", package: "socat"))
    func abstract() throws {
        let name = "forking-\(getpid())-\(UInt32.random(in: 0...UInt32.max))"
        let (server, _) = try forkserve(["echo", "--control", "@" + name, "127.0.0.1:0"])
        #expect(try Shown(run(forkserveProgram, ["status", "--json", "unix:@" + name])).pid == server.pid)
        if geteuid() == 0 {
            let ask = ["socat", "-u", "ABSTRACT-CONNECT:\(name)", "-"]
            #expect(try run(ask[0], Array(ask[1...])) == "\0")
            #expect(try run("setpriv", ["--reuid", "65534", "--clear-groups"] + ask) == "")
        }
        try stop(server)
    }

    @Test("who connects and never reads holds nobody up; hundreds of answers leave no descriptor")
    func idlers() throws {
        let (server, address) = try served(["prefork", "--workers", "1", "127.0.0.1:0"])
        let before = openDescriptors(of: server.pid).count
        let idlers = try (0..<200).map { _ in try Client("unix:" + control) }
        try Client(address).echo("still here")
        #expect(try shown().pid == server.pid)
        for idler in idlers { #expect(try idler.receive() == "\0" && idler.receive() == "") }
        for _ in 0..<300 { #expect(try Client("unix:" + control).receiveAll() == "\0") }
        // The last is closed a moment after its connection.
        try eventually("descriptors are left") { openDescriptors(of: server.pid).count == before }
        try stop(server)
    }

    @Test("workers and children have no part of it")
    func notInherited() throws {
        let (server, _) = try served(["prefork", "--workers", "1", "127.0.0.1:0"])
        let pid = children(of: server.pid)[0]
        server.send(SIGKILL)
        try eventually("it lives on") { Process(pid) == nil }
        // A socket that somebody still had would be listened on, and its file not be replaced.
        let (other, _) = try served(["echo", "127.0.0.1:0"])
        #expect(try shown().pid == other.pid)
        try stop(other)
    }

    @Test("while descriptors are short who asks waits, at no cost, and is answered then")
    func shortage() throws {
        let (server, address) = try served(["echo", "127.0.0.1:0"])
        let open = Set(openDescriptors(of: server.pid))
        let free = (0...).first { !open.contains($0) }!
        // Room for one: it is not accepted, and then sent away for want of another.
        try run("prlimit", ["--pid", "\(server.pid)", "--nofile=\(free + 1):4096"])
        let client = try Client("unix:" + control)
        let used = processorTime(of: server.pid)
        let waiting = now()
        // No event tells that nothing happens.
        while now() - waiting < 0.5 { usleep(10_000) }
        #expect(!client.hasAnswer && processorTime(of: server.pid) - used < 0.2)
        try run("prlimit", ["--pid", "\(server.pid)", "--nofile=1024:4096"])
        #expect(try client.receiveAll() == "\0")
        try Client(address).echo("hello")
        try stop(server)
    }

    @Test("what cannot be asked: one line, status 71; what cannot be meant: status 64")
    func refused() throws {
        let (server, _) = try served(["exec", "unix:\(directory.path)/other", "--", "echo", "hello"])
        let (silent, _) = try forkserve(["exec", "unix:\(directory.path)/silent", "--", "true"])
        let (killed, _) = try forkserve(["echo", "unix:\(directory.path)/stale"])
        killed.send(SIGKILL)
        try killed.wait()
        let cases = [
            (["status", "\(directory.path)/none"], 71, "there is no socket unix:\(directory.path)/none"),
            (["status", "\(directory.path)/stale"], 71, "no process listens on unix:\(directory.path)/stale"),
            (["status", "\(directory.path)/other"], 71, "is not a control socket"),
            (["status", "\(directory.path)/silent"], 71, "closed without an answer"),
            (["echo", "--control", control, "127.0.0.1:0"], 71, "another server is listening on \(control)"),
            (["echo", "--control", "/nonexistent/c", "127.0.0.1:0"], 71, "No such file or directory"),
        ]
        for (arguments, code, text) in cases {
            let (status, output, errors) = try outcome(arguments)
            #expect(status == code && output == "" && errors.hasPrefix("forkserve: "), "\(arguments)")
            #expect(errors.contains(text) && errors.filter { $0 == "\n" }.count == 1, "\(errors)")
        }
        for arguments in [["status"], ["status", ""], ["echo", "--control", "", "127.0.0.1:0"]] {
            #expect(try outcome(arguments).status == 64)
        }
        #expect(try shown().pid == server.pid)
        try stop(silent)
        try stop(server)
    }
}

/// The object that --json prints.
struct Shown: Decodable {
    struct Process: Decodable {
        let pid: pid_t
        let number: Int?
        let state: String
        let requests: Int?
        let inStateSeconds: Double?
        let ageSeconds: Double
        let memoryKib: Int?
        let peer: String?
    }

    let shape: String
    let pid: pid_t
    let addresses: [String]
    let phase: String
    let ageSeconds: Double
    let limit: Int
    let wanted: Int?
    let processes: [Process]

    init(_ text: String) throws {
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        self = try decoder.decode(Self.self, from: Data(text.utf8))
    }
}
