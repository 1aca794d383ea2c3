// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("Who is served")
struct ForkserveAdmissionTests {
    private func served(_ address: String, from source: String? = nil) throws -> Client {
        let client = try Client(address, from: source)
        try client.echo("hello")
        return client
    }

    /// A client whose connection ends before it is served.
    private func refused(_ address: String, from source: String? = nil) throws -> String {
        let client = try Client(address, from: source)
        return try client.receiveAll()
    }

    /// Tries until a client is served: what stood in its way passes by itself.
    private func eventuallyServed(_ address: String, from source: String? = nil) throws -> Client {
        let end = ContinuousClock.now + .seconds(60)
        while true {
            let client = try Client(address, from: source)
            try client.send("hello\n")
            if try client.receive() == "hello\n" { return client }
            guard ContinuousClock.now < end else { throw Failure("still refused") }
            usleep(10_000)
        }
    }

    @Test("one source has so many children; others do not notice", arguments: ["echo", "exec"])
    func perSource(command: String) throws {
        let program = command == "exec" ? ["--", "cat"] : []
        let (server, address) = try forkserve([command, "--per-source", "2", "127.0.0.1:0"] + program)
        let first = try served(address)
        let second = try served(address)
        #expect(try refused(address) == "")
        let other = try served(address, from: "127.0.0.2")
        first.finishSending()
        #expect(try first.receiveAll() == "")
        let third = try eventuallyServed(address)
        for client in [second, other, third] { client.finishSending() }
        try stop(server)
        #expect(server.errors.contains("forkserve: refused "), "\(server.errors)")
        #expect(server.errors.contains("its source has enough children"), "\(server.errors)")
    }

    @Test("a source that comes too often is refused with a line, which arrives though it has sent something")
    func rate() throws {
        let (server, address) = try forkserve(
            ["echo", "--rate", "1/h:2", "--refuse-with", "come back later", "127.0.0.1:0"])
        for _ in 0..<2 { try served(address).finishSending() }
        let client = try Client(address)
        try client.send("hello\nhello again\n")
        #expect(try client.receiveAll() == "come back later\n")
        // It is not closed yet, as its client may not have everything; but no child has it.
        let other = try served(address, from: "127.0.0.2")
        let child = try #require(children(of: server.pid).last)
        #expect(openDescriptors(of: child).count == 4, "\(openDescriptors(of: child))")
        other.finishSending()
        try stop(server)
    }

    @Test("clients wait when all of them together come too often")
    func totalRate() throws {
        let (server, address) = try forkserve(["echo", "--total-rate", "10/s:1", "127.0.0.1:0"])
        let begin = ContinuousClock.now
        let clients = try (0..<4).map { _ in try served(address) }
        // The first at once, and each other a tenth of a second later.
        #expect(ContinuousClock.now - begin >= .milliseconds(290))
        for client in clients { client.finishSending() }
        try stop(server)
        #expect(server.errors == "")
    }

    @Test("a program's crashes and exits earn penalties, which expire")
    func penalties() throws {
        let (server, address) = try forkserve(
            [
                "exec", "--penalty", "crash=1,exit7=0.5,min=1.2,max=2", "127.0.0.1:0", "--", "sh", "-c",
                "read line; case $line in die) kill -SEGV $$;; exit) exit 7;; *) echo $line; cat;; esac",
            ])
        for word in ["die", "exit"] {
            let client = try Client(address)
            try client.send(word + "\n")
            #expect(try client.receiveAll() == "")
        }
        // The penalties are added when the children are reaped.
        let end = ContinuousClock.now + .seconds(60)
        while true {
            let client = try Client(address)
            try? client.send("hello\n")
            if try client.receive() == "" { break }
            guard ContinuousClock.now < end else { throw Failure("never refused") }
        }
        try served(address, from: "127.0.0.2").finishSending()
        try eventuallyServed(address).finishSending()
        try stop(server)
        #expect(server.errors.contains("its source has penalties"), "\(server.errors)")
    }

    @Test("forkserve status shows the worst sources")
    func status() throws {
        let directory = try TemporaryDirectory()
        let control = "\(directory.path)/control"
        let (server, address) = try forkserve(
            [
                "exec", "--per-source", "3", "--penalty", "exit7=600", "--control", control, "127.0.0.1:0", "--", "sh",
                "-c", "read line; case $line in exit) exit 7;; *) echo $line; cat;; esac",
            ])
        let held = try (0..<2).map { _ in try served(address, from: "127.0.0.2") }
        let bad = try Client(address, from: "127.0.0.3")
        try bad.send("exit\n")
        #expect(try bad.receiveAll() == "")
        var shown = ""
        let end = ContinuousClock.now + .seconds(60)
        while !shown.contains("127.0.0.3") {
            guard ContinuousClock.now < end else { throw Failure("never shown: \(shown)") }
            let status = try Running(forkserveProgram, ["status", control])
            #expect(try status.wait() == 0, "\(status.errors)")
            shown = status.output
        }
        let lines = shown.split(separator: "\n").drop { !$0.hasPrefix("SOURCE") }.map {
            $0.split(separator: " ").map(String.init)
        }
        #expect(lines.first == ["SOURCE", "CHILDREN", "PENALTY", "NOW"], "\(shown)")
        #expect(
            lines.count == 3 && lines[1][0] == "127.0.0.3" && lines[1][1] == "0" && lines[1][3] == "refused", "\(shown)"
        )
        #expect(lines.last == ["127.0.0.2", "2", "-", "served"], "\(shown)")
        let json = try Running(forkserveProgram, ["status", "--json", control])
        #expect(try json.wait() == 0, "\(json.errors)")
        #expect(json.output.contains(#"{"name":"127.0.0.2","children":2,"penalty_seconds":0.000,"refused":false}"#))
        for client in held { client.finishSending() }
        try stop(server)
    }

    @Test("children are kept for those who have reservations, by address and by user")
    func reservations() throws {
        let directory = try TemporaryDirectory()
        let (server, address) = try forkserve(
            [
                "echo", "--max-children", "3", "--reserve", "1=127.0.0.7", "--reserve", "1=uid:\(getuid())",
                "127.0.0.1:0",
                "unix:\(directory.path)/socket",
            ])
        let first = try served(address)
        #expect(try refused(address) == "")
        let holder = try served(address, from: "127.0.0.7")
        #expect(try refused(address, from: "127.0.0.7") == "")
        let user = try served("unix:\(directory.path)/socket")
        for client in [first, holder, user] { client.finishSending() }
        server.send(SIGTERM)
        #expect(try server.wait() == 0, "\(server.errors)")
        try server.expectNothingAlive()
        #expect(server.errors.contains("what is left is reserved"), "\(server.errors)")
    }

    @Test("rules: the narrowest range decides; a file is read again when it changes, and on SIGHUP, but not if wrong")
    func rules() throws {
        let directory = try TemporaryDirectory()
        let file = "\(directory.path)/rules"
        func write(_ text: String) throws {
            // As an editor does: the file is never half written.
            try writeFile(file + ".new", Array(text.utf8))
            guard rename(file + ".new", file) == 0 else { throw Failure("rename") }
        }
        try write("deny 127.0.0.2  # a comment\n")
        let (server, address) = try forkserve(
            [
                "echo", "--allow", "127.0.0.0/8", "--deny", "127.0.0.0/24", "--allow", "127.0.0.1", "--rules", file,
                "127.0.0.1:0",
            ])
        try served(address).finishSending()
        try served(address, from: "127.0.1.1").finishSending()
        #expect(try refused(address, from: "127.0.0.2") == "")
        #expect(try refused(address, from: "127.0.0.3") == "")
        try write("allow 127.0.0.3\n")
        try eventuallyServed(address, from: "127.0.0.3").finishSending()
        try write("allow 127.0.0.3\nallow 127.0.0.999\n")
        server.send(SIGHUP)
        try server.waitForError("the address rules stay as they were")
        #expect(server.errors.contains("line 2"), "\(server.errors)")
        try served(address, from: "127.0.0.3").finishSending()
        try stop(server)
    }

    @Test(
        "a wrong option is one line",
        arguments: [
            (["--per-source", "0"], "--per-source is '0', and must be a number, such as 8"),
            (["--rate", "20"], "--rate is '20', and must be a number per s, m or h"),
            (["--total-rate", "x/s"], "--total-rate is 'x/s', and must be"),
            (["--penalty", "crash=90,hang=3"], "'hang=3' in --penalty is not one of crash=SECONDS"),
            (["--penalty", "min=9,max=3"], "--penalty has min above max"),
            (["--early-drop", "10:30"], "--early-drop is '10:30', and must be BEGIN:PERCENT:FULL"),
            (["--reserve", "5"], "--reserve is '5', and must be a number and for whom"),
            (
                ["--reserve", "40=uid:0"],
                "--reserve is 40 children in all, and must be fewer than --max-children"
            ),
            (["--deny", "10.1.2.3/8"], "--deny: '10.1.2.3/8' has bits behind its prefix"),
            (["--rules", "/nowhere/rules"], "/nowhere/rules"),
            (["--rules", "/dev/null"], "/dev/null is not a regular file"),
            (["--udp", "--penalty", "crash=9"], "--penalty is for connections, but --udp serves datagrams"),
        ])
    func wrong(options: [String], text: String) throws {
        let running = try Running(forkserveProgram, ["echo"] + options + ["127.0.0.1:0"])
        #expect(try running.wait() != 0)
        let lines = running.errors.split(separator: "\n")
        #expect(lines.count == 1 && lines[0].contains(text), "\(running.errors)")
    }
}
