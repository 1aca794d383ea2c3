// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve exec")
struct ExecTests {
    private func environment(_ address: String) throws -> [String: String] {
        var variables: [String: String] = [:]
        for entry in try Client(address).receiveAll().split(separator: "\0") {
            let parts = entry.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            variables[String(parts[0])] = String(parts[1])
        }
        return variables
    }

    @Test("TCP: the variables of tcpserver and of systemd's Accept=yes", arguments: ["127.0.0.1", "[::1]"])
    func tcpVariables(host: String) throws {
        let stale = Dictionary(
            uniqueKeysWithValues: ["UNIXLOCALPATH", "TCPREMOTEINFO", "REMOTE_HOST"].map { ($0, "x") })
        let (server, address) = try forkserve(["exec", "\(host):0", "--", "env", "-0"], environment: stale)
        let variables = try environment(address)
        let ip = host.trimmingBrackets
        #expect(variables["PROTO"] == "TCP")
        #expect(variables["TCPLOCALIP"] == ip && variables["TCPREMOTEIP"] == ip && variables["REMOTE_ADDR"] == ip)
        #expect("\(host):\(variables["TCPLOCALPORT"] ?? "")" == address)
        #expect(variables["TCPREMOTEPORT"] == variables["REMOTE_PORT"] && UInt16(variables["REMOTE_PORT"] ?? "") != nil)
        for name in stale.keys { #expect(variables[name] == nil, "\(name) was left") }
        try stop(server)
    }

    @Test("Unix: the variables of ucspi-unix; stale ones of TCP are removed")
    func unixVariables() throws {
        let directory = try TemporaryDirectory()
        let names = ["TCPREMOTEIP", "TCPREMOTEPORT", "REMOTE_PORT", "LISTEN_FDS", "LISTEN_PID", "UNIXREMOTEPATH"]
        let (server, address) = try forkserve(
            ["exec", "unix:\(directory.path)/s", "--", "env", "-0"],
            environment: Dictionary(uniqueKeysWithValues: names.map { ($0, "7") }))
        let variables = try environment(address)
        #expect(variables["PROTO"] == "UNIX" && variables["UNIXLOCALPATH"] == directory.path + "/s")
        #expect(variables["UNIXREMOTEPID"] == "\(getpid())")
        #expect(variables["UNIXREMOTEEUID"] == "\(geteuid())" && variables["UNIXREMOTEEGID"] == "\(getegid())")
        for name in names { #expect(variables[name] == nil, "\(name) was left") }
        try stop(server)
    }

    @Test("a program's path is taken byte for byte, in PATH or not", arguments: ["$name", "$directory/$name"])
    func programBytes(program: String) throws {
        let scratch = try TemporaryDirectory()
        let script = """
            directory="$1/$(printf 'caf\\351')" name="$(printf 'say\\351')"
            mkdir "$directory" && cp /bin/echo "$directory/$name" && PATH="$directory:$PATH"
            exec "$0" exec 127.0.0.1:0 -- "\(program)" served
            """
        let (server, address) = try forkserve(shell: script, [scratch.path])
        #expect(try Client(address).receiveAll() == "served\n")
        try stop(server)
    }

    @Test("all other variables, and the arguments, go on byte for byte")
    func environmentBytes() throws {
        let script = "export LATIN=\"$(printf 'caf\\351=\\n x')\" EMPTY=; exec \"$0\" exec 127.0.0.1:0 -- \"$@\""
        let (server, address) = try forkserve(shell: script, ["cat", "/proc/self/environ"])
        let bytes = try Client(address).receiveAllBytes()
        let entries = bytes.split(separator: 0).map(Array.init)
        #expect(entries.contains(Array("LATIN=caf".utf8) + [0xe9] + Array("=\n x".utf8)))
        #expect(entries.contains(Array("EMPTY=".utf8)))
        try stop(server)
        let (other, place) = try forkserve(["exec", "127.0.0.1:0", "--", "printf", "<%s>", "a b", "", "--", "é\n"])
        #expect(try Client(place).receiveAll() == "<a b><><--><é\n>")
        try stop(other)
    }

    @Test("arguments that are not UTF-8 go on byte for byte")
    func argumentBytes() throws {
        let script = "exec \"$0\" exec 127.0.0.1:0 -- printf %s \"$(printf 'caf\\351')\""
        let (server, address) = try forkserve(shell: script)
        #expect(try Client(address).receiveAllBytes() == Array("caf".utf8) + [0xe9])
        try stop(server)
    }

    @Test("the program has descriptors 0, 1 and 2 and no other")
    func descriptors() throws {
        let foreign = open("/dev/null", O_RDONLY | O_CLOEXEC)
        defer { close(foreign) }
        let (server, address) = try forkserve(
            ["exec", "127.0.0.1:0", "--", "sh", "-c", "echo $$; read line"], inherited: [57: foreign])
        let first = try Client(address)
        let pid = pid_t(try first.receive().dropLast())!
        #expect(openDescriptors(of: pid).sorted() == [0, 1, 2])
        first.finishSending()  // or the program would be there until the drain is over
        try stop(server)
    }

    /// The signals that a line of /proc/PID/status names, without 32 and 33: those are the C library's own, which its
    /// posix_spawn leaves ignored in what our tests start.
    private func signals(_ name: String, in status: String) throws -> UInt64 {
        let line = status.split(separator: "\n").first { $0.hasPrefix(name + ":") }
        guard let mask = line.flatMap({ UInt64($0.dropFirst(name.count + 2), radix: 16) }) else {
            throw Failure("no \(name) in \(status)")
        }
        return mask & ~0x1_8000_0000
    }

    @Test("the program has an empty signal mask and default dispositions, whatever forkserve itself has")
    func signals() throws {
        let (server, address) = try forkserve(["exec", "127.0.0.1:0", "--", "cat", "/proc/self/status"])
        let status = try Client(address).receiveAll()
        for name in ["SigBlk", "SigIgn", "SigCgt"] { #expect(try signals(name, in: status) == 0, "\(name)") }
        try stop(server)
    }

    @Test("children are reaped, and programs get SIGCHLD's default, though whoever started forkserve ignores it")
    func ignoredSIGCHLD() throws {
        let (server, address) = try forkserve(
            shell: "trap '' CHLD; exec \"$0\" \"$@\"",
            ["exec", "--verbose", "127.0.0.1:0", "--", "sh", "-c", "cat /proc/self/status; exit 5"])
        #expect(try signals("SigIgn", in: try Client(address).receiveAll()) == 0)
        try server.waitForError("exited with status 5")
        try stop(server)
    }

    @Test("a program that the kernel cannot execute after all is reported, and serving goes on")
    func notExecutable() throws {
        let directory = try TemporaryDirectory()
        let program = directory.path + "/program"
        try writeFile(program, [0x7f, 0x45, 0x4c, 0x46])
        chmod(program, 0o755)
        let (server, address) = try forkserve(["exec", "127.0.0.1:0", "--", program])
        #expect(try Client(address).receiveAll() == "")
        try server.waitForError("its program cannot be executed: Exec format error")
        #expect(try Client(address).receiveAll() == "")
        try stop(server)
    }

    @Test("a program that vanishes costs those who come meanwhile, and is executed again once it is back")
    func vanished() throws {
        let directory = try TemporaryDirectory()
        let program = directory.path + "/program"
        try writeFile(program, Array("#!/bin/sh\necho here\n".utf8))
        chmod(program, 0o755)
        let (server, address) = try forkserve(["exec", "127.0.0.1:0", "--", program])
        #expect(try Client(address).receiveAll() == "here\n")
        rename(program, program + ".away")
        for _ in 0..<3 { #expect(try Client(address).receiveAll() == "") }
        rename(program + ".away", program)
        #expect(try Client(address).receiveAll() == "here\n")
        try eventually("children are left") { children(of: server.pid).isEmpty }
        try stop(server)
        let lines = server.errors.split(separator: "\n")
        let why = "its program cannot be executed: No such file or directory"
        #expect(lines.count == 3 && lines.allSatisfy { $0.hasSuffix(why) })
    }

    @Test("60 clients at once, of whom 40 are served at a time, are all served, and nothing is left")
    func burst() throws {
        let (server, address) = try forkserve(["exec", "127.0.0.1:0", "--", "cat"])
        #expect(try Client(address).exchange([10]) == [10])
        try eventually("a child is left") { children(of: server.pid).isEmpty }
        let before = openDescriptors(of: server.pid).count
        let clients = try (0..<60).map { _ in try Client(address) }
        for (number, client) in clients.enumerated() { try client.send("client \(number)\n") }
        try eventually("never 40 children") { children(of: server.pid).count == 40 }
        // Low numbers are left to connections: each child copies what is below its own.
        try eventually("pidfds have low numbers") { openDescriptors(of: server.pid).filter { $0 >= 256 }.count == 40 }
        for (number, client) in clients.enumerated() {
            #expect(try client.receive() == "client \(number)\n")
            #expect(children(of: server.pid).count <= 40)
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        try eventually("children are left") { children(of: server.pid).isEmpty }
        #expect(openDescriptors(of: server.pid).count == before)
        try stop(server)
        #expect(server.errors == "")
    }

    @Test("more children than there can be descriptors for are refused in one line, as many as there can be are served")
    func descriptorLimit() throws {
        let script = "\(closingInherited); ulimit -n 64; exec '\(forkserveProgram)' exec --max-children"
        let (status, output, errors) = try outcome(["-c", "\(script) 41 127.0.0.1:0 -- cat"], program: "bash")
        #expect(status == 71 && output == "")
        for text in ["forkserve: --max-children is 41, ", "(ulimit -n) is 64", "enough for 40"] {
            #expect(errors.contains(text), "\(errors)")
        }
        #expect(errors.filter { $0 == "\n" }.count == 1, "\(errors)")
        let (server, address) = try forkserve(shell: "exec bash -c \"$1\"", ["\(script) 40 127.0.0.1:0 -- cat"])
        let clients = try (0..<41).map { _ in try Client(address) }
        for client in clients.dropLast() { try client.echo("one of 40") }
        try clients[40].send("the 41st\n")
        clients[0].finishSending()
        #expect(try clients[40].receive() == "the 41st\n")
        for client in clients { client.finishSending() }
        try stop(server)
        // On a busy machine programs take long to be executed.
        let lines = server.errors.split(separator: "\n")
        #expect(lines.allSatisfy { $0.contains("programs can be on their way to be executed") }, "\(server.errors)")
    }

    @Test("closed standard descriptors: nothing takes their places", arguments: [0, 1, 2] as [Int32])
    func closedStandardDescriptors(number: Int32) throws {
        let directory = try TemporaryDirectory()
        let address = "unix:\(directory.path)/socket"
        let script = "exec \"$0\" exec --verbose \(address) -- sh -c 'echo $$; read line' \(number)>&-"
        let server = try Running("sh", ["-c", script, forkserveProgram])
        try eventually("no server") { (try? Client(address)) != nil }
        for _ in 0..<3 {
            let client = try Client(address)
            let program = pid_t(try client.receive().dropLast())!
            #expect(openDescriptors(of: program).sorted() == [0, 1, 2])
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        var target = [CChar](repeating: 0, count: 100)
        readlink("/proc/\(server.pid)/fd/\(number)", &target, 99)
        let occupant = String(decoding: target.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        #expect(occupant == "/dev/null")
        server.send(SIGTERM)
        #expect(try server.wait() == 0)
        try server.expectNothingAlive()
    }

    @Test("a reader of stdout or stderr that has gone does not end it")
    func brokenPipes() throws {
        let directory = try TemporaryDirectory()
        let address = "unix:\(directory.path)/socket"
        let ends = try pipe()
        let script = "exec \"$0\" exec --verbose \(address) -- sh -c 'echo here; exit 3' >&9 2>&9 9>&-"
        let server = try Running("sh", ["-c", script, forkserveProgram], inherited: [9: ends.write])
        close(ends.write)
        close(ends.read)
        try eventually("no server") { (try? Client(address)) != nil }
        for _ in 0..<5 { #expect(try Client(address).receiveAll() == "here\n") }
        try eventually("not all were reaped") { children(of: server.pid).isEmpty }
        server.send(SIGTERM)
        #expect(try server.wait() == 0)
        try server.expectNothingAlive()
    }
}

extension String {
    fileprivate var trimmingBrackets: String { String(drop { $0 == "[" }.prefix { $0 != "]" }) }
}
