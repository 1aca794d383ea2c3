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
        let (server, address) = try forkserve(["exec", "127.0.0.1:0", "--", "sh", "-c", "echo $$; read line"])
        let first = try Client(address)
        let pid = pid_t(try first.receive().dropLast())!
        #expect(openDescriptors(of: pid).sorted() == [0, 1, 2])
        try stop(server)
    }

    @Test("the program has an empty signal mask and default dispositions, whatever forkserve itself has")
    func signals() throws {
        let (server, address) = try forkserve(["exec", "127.0.0.1:0", "--", "cat", "/proc/self/status"])
        let status = try Client(address).receiveAll()
        for name in ["SigBlk", "SigIgn", "SigCgt"] {
            #expect(status.contains("\(name):\t0000000000000000\n"), "\(status)")
        }
        try stop(server)
    }

    @Test("children are reaped, and programs get SIGCHLD's default, though whoever started forkserve ignores it")
    func ignoredSIGCHLD() throws {
        let (server, address) = try forkserve(
            shell: "trap '' CHLD; exec \"$0\" \"$@\"",
            ["exec", "--verbose", "127.0.0.1:0", "--", "sh", "-c", "grep SigIgn /proc/self/status; exit 5"])
        #expect(try Client(address).receiveAll() == "SigIgn:\t0000000000000000\n")
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
        try server.waitForError("execve \(program): Exec format error")
        #expect(try Client(address).receiveAll() == "")
        try stop(server)
    }

    @Test(
        "forkserve serves on with stdin, stdout and stderr closed, and its descriptors take none of their places",
        arguments: ["<&- >&3 3>&-", "2>&-", "<&- 2>&-"])
    func closedStandardDescriptors(closing: String) throws {
        let out = "3>&1; exec \"$0\" exec --verbose 127.0.0.1:0 -- sh -c 'ls -l /proc/$$/fd; exit 3' "
        let (server, address) = try forkserve(shell: "exec " + out + closing + " 3>&-")
        for _ in 0..<5 {
            let listing = try Client(address).receiveAll()
            #expect(!listing.contains("eventfd") && !listing.contains("signalfd"), "\(listing)")
        }
        try stop(server)
    }

    @Test("a reader of stdout or stderr that has gone does not end it")
    func brokenPipes() throws {
        for redirection in ["2>&3", "2>&3 | head -n 1"] {
            let ends = try pipe()
            close(ends.read)
            // stderr is a pipe that nobody reads; in the second round stdout becomes one too.
            let (server, address) = try forkserve(
                shell: "\"$0\" exec --verbose 127.0.0.1:0 -- sh -c 'echo here; exit 3' \(redirection) 3>&- & wait",
                inherited: [3: ends.write])
            close(ends.write)
            for _ in 0..<5 { #expect(try Client(address).receiveAll() == "here\n") }
            server.send(SIGKILL)
            try server.wait()
        }
    }
}

extension String {
    fileprivate var trimmingBrackets: String { String(drop { $0 == "[" }.prefix { $0 != "]" }) }
}
