// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve's sockets")
struct UnixSocketTests {
    @Test("a stale Unix socket is replaced, and ours is removed at the end")
    func stale() throws {
        let directory = try TemporaryDirectory()
        let address = "unix:\(directory.path)/socket"
        let (first, _) = try forkserve(["echo", address])
        first.send(SIGKILL)
        #expect(try first.wait() == -SIGKILL)
        #expect(entries(of: directory.path) == ["socket"])
        let (second, _) = try forkserve(["echo", address])
        try Client(address).echo("anew")
        try stop(second)
        #expect(entries(of: directory.path).isEmpty)
    }

    @Test("another server's live Unix socket stays untouched, at its end too")
    func live() throws {
        let directory = try TemporaryDirectory()
        let address = "unix:\(directory.path)/socket"
        let (server, _) = try forkserve(["echo", address])
        let (status, output, errors) = try outcome(["echo", address])
        #expect(status == 71 && output == "")
        #expect(errors.contains("another server is listening on \(directory.path)/socket"), "\(errors)")
        try Client(address).echo("still here")
        try stop(server)
    }

    @Test("of two servers started at once on a stale Unix socket exactly one wins")
    func race() throws {
        let directory = try TemporaryDirectory()
        let address = "unix:\(directory.path)/socket"
        for _ in 0..<10 {
            // Each round begins with what the last one's SIGKILL left behind.
            let both = [
                try Running(forkserveProgram, ["echo", address]), try Running(forkserveProgram, ["echo", address]),
            ]
            let lines = try both.map { try $0.line() }
            #expect(lines.compactMap(\.self) == ["listening on \(address)"], "\(both.map(\.errors))")
            for (running, line) in zip(both, lines) where line == nil { #expect(try running.wait() == 71) }
            try Client(address).echo("who is it")
            for (running, line) in zip(both, lines) where line != nil {
                running.send(SIGKILL)
                try running.wait()
            }
        }
    }

    @Test(
        "a Unix socket that is bound but not yet listened on is not taken for a stale one",
        .needsTracing)
    func betweenBindAndListen() throws {
        let directory = try TemporaryDirectory()
        let address = "unix:\(directory.path)/socket"
        // The tracer makes long what takes microseconds.
        let slow = ["-o", "/dev/null", "-e", "trace=listen", "-e", "inject=listen:delay_enter=1000000"]
        let first = try Running("strace", slow + [forkserveProgram, "echo", address])
        try eventually("nothing was bound") { fileExists(directory.path + "/socket") }
        let (status, output, errors) = try outcomeWithin(["echo", address])
        #expect(status == 71 && output == "" && errors.contains("another server is listening"), "\(errors)")
        #expect(try first.line() == "listening on \(address)")
        try Client(address).echo("mine")
    }

    /// As `outcome`, but a server that unexpectedly serves is ended after its first line.
    private func outcomeWithin(_ arguments: [String]) throws -> (status: Int32, output: String, errors: String) {
        let running = try Running(forkserveProgram, arguments, deadline: 30)
        if try running.line() != nil { running.send(SIGTERM) }
        return (try running.wait(), running.output, running.errors)
    }

    @Test("fd:N serves on an inherited socket, whose file it leaves alone")
    func inherited() throws {
        let directory = try TemporaryDirectory()
        for asked in ["127.0.0.1:0", "unix:\(directory.path)/socket"] {
            let socket = try boundSocket(asked)
            let (server, address) = try forkserve(["echo", "fd:9"], inherited: [9: socket])
            close(socket)
            try Client(address).echo("inherited")
            try stop(server)
        }
        #expect(entries(of: directory.path) == ["socket"])
    }

    @Test("systemd serves on LISTEN_FDS' socket if LISTEN_PID is its own")
    func systemd() throws {
        let directory = try TemporaryDirectory()
        let socket = try boundSocket("unix:\(directory.path)/socket")
        defer { close(socket) }
        let handed = "LISTEN_PID=$$ LISTEN_FDS=1 LISTEN_FDNAMES=x exec \"$0\" \"$@\""
        let (server, address) = try forkserve(
            shell: handed, ["exec", "systemd", "--", "/usr/bin/env"], inherited: [3: socket])
        #expect(address == "unix:\(directory.path)/socket")
        let environment = try Client(address).receiveAll()
        #expect(environment.contains("PROTO=UNIX\n") && !environment.contains("LISTEN_"), "\(environment)")
        try stop(server)
        #expect(entries(of: directory.path) == ["socket"])
        let (status, _, errors) = try outcome(
            ["-c", "LISTEN_PID=1 LISTEN_FDS=1 exec '\(forkserveProgram)' echo systemd"], program: "sh")
        #expect(status == 71 && errors.contains("no socket was handed over"), "\(errors)")
    }

    @Test("--mode and --group make a Unix socket's file as asked, whatever the umask")
    func modeAndGroup() throws {
        let directory = try TemporaryDirectory()
        let (server, address) = try forkserve(
            shell: "umask 077; exec \"$0\" \"$@\"",
            [
                "echo", "--mode", "662", "--group", geteuid() == 0 ? "nogroup" : "\(getegid())",
                "unix:\(directory.path)/s",
            ])
        var found = stat()
        #expect(stat(directory.path + "/s", &found) == 0 && found.st_mode & 0o7777 == 0o662)
        if geteuid() == 0 { #expect(found.st_gid == 65_534) }
        try Client(address).echo("hello")
        try stop(server)
    }

    @Test("options of sockets that cannot be are refused in one line")
    func wrongOptions() throws {
        for (options, text) in [
            (["--mode", "888", "unix:/x"], "--mode is '888', and must be an octal number from 0 to 777, such as 660"),
            (["--mode", "1777", "unix:/x"], "--mode is '1777', and must be"),
            (["--mode", "600", "127.0.0.1:0"], "--mode is for a Unix socket's file"),
            (["--group", "root", "unix:@x"], "--group is for a Unix socket's file"),
            (["--group", "no such", "unix:/x"], "--group: there is no group 'no such' in /etc/group"),
            (["--ipv6-only", "127.0.0.1:0"], "--ipv6-only is for an IPv6 address"),
            (["--udp", "--no-delay", "127.0.0.1:0"], "--no-delay is for connections"),
        ] {
            let (status, _, errors) = try outcome(["echo"] + options)
            #expect(status == 64 && errors.contains(text), "\(errors)")
        }
    }

    @Test("--ipv6-only keeps IPv4 clients off, and --no-delay is taken by all that serve connections")
    func otherOptions() throws {
        let (server, address) = try forkserve(["echo", "--ipv6-only", "--no-delay", "[::]:0"])
        let port = address.split(separator: ":").last!
        try Client("[::1]:\(port)").echo("hello")
        #expect(throws: Failure.self) { try Client("127.0.0.1:\(port)") }
        try stop(server)
    }
}
