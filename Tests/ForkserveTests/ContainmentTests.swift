// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// A shell's words for a process in a session of its own that heeds no SIGTERM.
private let stubbornDaemon = "setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' >&2 &"

@Suite("What programs start, and where it goes")
struct ContainmentTests {
    private func exec(_ options: [String], _ script: String) throws -> (Running, address: String) {
        try forkserve(["exec"] + options + ["127.0.0.1:0", "--", "sh", "-c", script])
    }

    /// Sends SIGTERM, after which it is to end with `status` and leave nothing.
    private func stop(_ server: Running, seconds: Double = 60) throws {
        server.send(SIGTERM)
        #expect(try server.wait() == 0, "\(server.errors)")
        try server.expectNothingAlive()
    }

    @Test("a program leads a session, and has no terminal", arguments: [[], ["--leave-daemons"]])
    func session(options: [String]) throws {
        let (server, address) = try exec(options, "echo $$; read line")
        let client = try Client(address)
        let pid = pid_t(try client.receive().dropLast())!
        #expect(Process(pid)?.session == pid && Process(pid)?.group == pid)
        client.finishSending()
        try stop(server)
    }

    @Test("a program that leaves by setsid keeps its place: no more run at once than --max-children")
    func limit() throws {
        let directory = try TemporaryDirectory()
        let script = "mkdir \"$0\" && echo alone || echo together; read line; rmdir \"$0\""
        let (server, address) = try forkserve(
            ["exec", "--max-children", "1", "127.0.0.1:0", "--", "setsid", "sh", "-c", script, directory.path + "/x"])
        let clients = try (0..<4).map { _ in try Client(address) }
        for client in clients {
            #expect(try client.receive() == "alone\n")
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        try stop(server)
    }

    @Test("--timeout ends what has left the session, be it deaf, and what has no parent any more")
    func timeLimit() throws {
        let (server, address) = try exec(
            ["--timeout", "0.5", "--kill-timeout", "0.2"],
            stubbornDaemon + " (setsid sleep 1000 >&2 &); echo ready; cat")
        let client = try Client(address)
        #expect(try client.receive() == "ready\n")
        try eventually("not all were started") { server.descendants.count >= 4 }
        #expect(try client.receiveAll() == "")
        try eventually(within: 60, "left alive: \(server.descendants)") { server.descendants.isEmpty }
        try stop(server)
    }

    @Test("a stop ends what has left the session, whether or not its client has gone")
    func stopping() throws {
        let (server, address) = try exec(
            ["--drain-timeout", "0.2", "--kill-timeout", "0.2"],
            stubbornDaemon + " (setsid sleep 1000 >&2 &); echo ready; read line")
        let clients = [try Client(address), try Client(address)]
        for client in clients { #expect(try client.receive() == "ready\n") }
        clients[0].finishSending()
        #expect(try clients[0].receiveAll() == "")
        try stop(server)
    }

    @Test("a drain leaves to its work what a program left that ended well, in its session or not")
    func draining() throws {
        let directory = try TemporaryDirectory()
        let work = "while ! test -e go; do sleep 0.05; done; touch \"$0\""
        let control = directory.path + "/control"
        let (server, address) = try exec(
            ["--verbose", "--drain-timeout", "1000", "--control", control],
            "cd \(directory.path); sh -c '\(work)' a >&2 & setsid sh -c '\(work)' b >&2 & echo ready; read line")
        let client = try Client(address)
        #expect(try client.receive() == "ready\n")
        server.send(SIGTERM)
        try server.waitForError("stopping: draining")  // another client would leave others behind
        client.finishSending()
        #expect(try client.receiveAll() == "")
        try eventually("it does not wait for them") {
            try run(forkserveProgram, ["status", control]).split(separator: "\n").count { $0.contains("  left  ") } == 2
        }
        try writeFile(directory.path + "/go", [])
        #expect(try server.wait() == 0)
        #expect(fileExists(directory.path + "/a") && fileExists(directory.path + "/b"), "its work was not done")
        try server.expectNothingAlive()
    }

    @Test("--leave-daemons: what leaves the session has no place, and outlives a stop")
    func leaveDaemons() throws {
        let (server, address) = try exec(
            ["--leave-daemons", "--max-children", "1"], "setsid sh -c 'echo ready; exec sleep 1000 >&2' & read line")
        for _ in 0..<2 {
            let client = try Client(address)
            #expect(try client.receive() == "ready\n")
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        server.send(SIGTERM)
        #expect(try server.wait() == 0)
        try eventually("they are gone: \(server.descendants)") {
            server.descendants.count { contents(of: "/proc/\($0)/comm") == "sleep\n" } == 2
        }
    }

    @Test(
        "each process gets one SIGTERM, whatever has become of it: a second one can mean another thing",
        .needs("perl", package: "perl-base"),
        arguments: [["--timeout", "4"], ["--drain-timeout", "0"]], ["while :; do wait; done", "wait"])
    func once(options: [String], leader: String) throws {
        let counting = #"""
            perl -e '$| = 1; $SIG{TERM} = sub { print "$ARGV[0] got it\n" }; print "$ARGV[0] is up\n"; sleep 1 while 1'
            """#
        let names = ["child", "orphan", "daemon", "leftover"]
        let starts = [
            "\(counting) child &", "(\(counting) orphan &);", "setsid \(counting) daemon &",
            "(setsid \(counting) leftover &);",
        ]
        // It is what it is to be before the last of them is up.
        let trap = leader == "wait" ? "" : "trap : TERM;"
        let script = (starts.dropLast() + [trap, starts.last!, leader]).joined(separator: " ")
        let (server, address) = try exec(options + ["--kill-timeout", "4"], script)
        let client = try Client(address)
        var text = ""
        while names.contains(where: { !text.contains("\($0) is up\n") }) {
            let more = try client.receive()
            try #require(!more.isEmpty, "\(text)")
            text += more
        }
        if options.contains("--drain-timeout") { server.send(SIGTERM) }
        text += try client.receiveAll()
        for name in names {
            let count = text.ranges(of: "\(name) got it\n").count
            // With a leader that has ended what is left of its group gets SIGKILL, and may come to say nothing.
            let isKilled = leader == "wait" && ["child", "orphan"].contains(name)
            #expect(count == 1 || isKilled && count == 0, "\(text)")
        }
        if !options.contains("--drain-timeout") { server.send(SIGTERM) }
        #expect(try server.wait() == 0, "\(server.errors)")
        try server.expectNothingAlive()
    }

    @Test("status: what was left is listed as such")
    func status() throws {
        let directory = try TemporaryDirectory()
        let control = directory.path + "/control"
        let (server, address) = try exec(
            ["--control", control, "--drain-timeout", "0.1"], "(setsid sleep 1000 >&2 &); echo ready; read line")
        let client = try Client(address)
        #expect(try client.receive() == "ready\n")
        client.finishSending()
        #expect(try client.receiveAll() == "")
        try eventually("it is not listed") {
            let lines = try run(forkserveProgram, ["status", control]).split(separator: "\n")
            return lines.count == 3 && lines[2].contains("  left  ")
        }
        try stop(server)
    }

    @Test("nothing outlives a forkserve that is killed, whatever user it has become", .enabled(if: geteuid() == 0))
    func parentKilled() throws {
        let directory = try TemporaryDirectory()
        let control = directory.path + "/control"
        let started = "sleep 1000 >&2 & setsid sleep 1000 >&2 & echo ready; read line"
        let (server, address) = try forkserve(
            [
                "exec", "--control", control, "127.0.0.1:0", "--", "setpriv", "--reuid=65534", "--clear-groups", "sh",
                "-c", started,
            ])
        let clients = [try Client(address), try Client(address)]
        for client in clients { #expect(try client.receive() == "ready\n") }
        clients[0].finishSending()
        #expect(try clients[0].receiveAll() == "")
        try eventually("not all were started") { server.descendants.count >= 5 }
        // Its client sees a program end before its parent does.
        try eventually("it does not know what was left") {
            try run(forkserveProgram, ["status", control]).contains("  left  ")
        }
        server.send(SIGKILL)
        #expect(try server.wait() == -SIGKILL)
        try server.expectNothingAlive(within: 60)
    }

    @Test("nor what it has not found yet, in a program's session", .enabled(if: geteuid() == 0))
    func parentKilledEarly() throws {
        let (server, address) = try exec([], "read line; (sleep 1000 >&2 &); echo ready; read line")
        let client = try Client(address)
        usleep(500_000)  // it has looked for what is left, and has no reason to look again
        try client.send("go on\n")
        #expect(try client.receive() == "ready\n")
        server.send(SIGKILL)
        #expect(try server.wait() == -SIGKILL)
        try server.expectNothingAlive(within: 60)
    }

    @Test("nothing outlives a forkserve that is killed, nor do sessions that a program has made which lives")
    func parentKilledWithSessions() throws {
        let (server, address) = try exec(
            [], stubbornDaemon + " setsid sh -c 'setsid sleep 1000 & sleep 1000' >&2 & echo ready; read line")
        let clients = try (0..<4).map { _ in try Client(address) }
        for client in clients { #expect(try client.receive() == "ready\n") }
        try eventually("not all were started") { server.descendants.count >= 6 * clients.count }
        server.send(SIGKILL)
        #expect(try server.wait() == -SIGKILL)
        try server.expectNothingAlive(within: 60)
    }

    @Test("the process that ends all with forkserve is made again should it be killed")
    func watcherKilled() throws {
        let (server, address) = try exec([], "setsid sleep 1000 >&2 & echo ready; read line")
        let first = try Client(address)
        #expect(try first.receive() == "ready\n")
        let watcher = try #require(watchers(of: server).first)
        #expect(contents(of: "/proc/\(watcher)/cmdline")?.contains("forkserve") == false)
        kill(watcher, SIGKILL)
        try eventually("there is no other") { watchers(of: server).first.map { $0 != watcher } ?? false }
        let second = try Client(address)
        #expect(try second.receive() == "ready\n")
        server.send(SIGKILL)
        #expect(try server.wait() == -SIGKILL)
        try server.expectNothingAlive(within: 60)
    }

    @Test("as process 1 it reaps what lands on it, and is stopped by signals", .enabled(if: canUnshare))
    func processOne() throws {
        let program = ["sh", "-c", "(sh -c 'exit 3' >&2 &); (setsid true >&2 &); echo ready; read line"]
        let server = try Running(
            "unshare", ["-p", "--fork", "--mount-proc", forkserveProgram, "exec", "127.0.0.1:0", "--"] + program)
        let address = try listeningAddress(of: server)
        let first = try #require(children(of: server.pid).first)
        let client = try Client(address)
        #expect(try client.receive() == "ready\n")
        // It is not told of those whose parents end, and which end before it has looked; but of a SIGCHLD.
        try eventually(within: 60, "zombies: \(children(of: first))") { children(of: first).count == 1 }
        for _ in 0..<5 {
            let other = try Client(address)
            #expect(try other.receive() == "ready\n")
            other.finishSending()
            #expect(try other.receiveAll() == "")
        }
        client.finishSending()
        try eventually(within: 60, "left: \(children(of: first))") { children(of: first).isEmpty }
        kill(first, SIGTERM)
        #expect(try server.wait() == 0, "\(server.errors)")
        try server.expectNothingAlive()
    }
}

/// The process that outlives a server.
private func watchers(of server: Running) -> [pid_t] {
    processes().filter { Process($0)?.parent == server.pid && isWatcher($0) }
}

private let canUnshare =
    (try? Running("unshare", ["-p", "--fork", "--mount-proc", "true"]).wait()) == 0
