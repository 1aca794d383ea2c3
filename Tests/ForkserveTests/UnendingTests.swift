// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve, and programs that do not end as they should")
struct UnendingTests {
    @Test(
        "a program with other credentials: said at once that it cannot be ended, and the exit status is not 0",
        .needsRoot, .needs("setpriv", package: "util-linux"))
    func setUserID() throws {
        let directory = try TemporaryDirectory()
        chmod(directory.path, 0o755)
        let program = directory.path + "/become-root"
        try run("cp", ["/usr/bin/setpriv", program])
        try #require(chown(program, 0, 0) == 0 && chmod(program, 0o4755) == 0)
        let server = try Running(
            "setpriv",
            ["--reuid=65534", "--clear-groups", forkserveProgram, "exec", "--timeout", "0.3", "--kill-timeout", "0.3"]
                + [
                    "--drain-timeout", "0", "127.0.0.1:0", "--", program, "--reuid=0", "sh", "-c",
                    "echo $$; exec sleep 1000",
                ])
        let client = try Client(try listeningAddress(of: server))
        let pid = pid_t(try client.receive().dropLast())!
        defer { kill(pid, SIGKILL) }
        try server.waitForError("child \(pid), peer ")
        try server.waitForError(": cannot be ended, because it runs as another user: kill: Operation not permitted\n")
        #expect(Process(pid) != nil, "it was ended")
        server.send(SIGTERM)
        #expect(try server.wait() == 71)
        #expect(server.errors.contains("these processes could not be ended: [\(pid)]"), "\(server.errors)")
        kill(pid, SIGKILL)
        try server.expectNothingAlive()
    }

    @Test("programs hear signals, whatever whoever started forkserve had blocked", .needs("env", package: "coreutils"))
    func emptyMask() throws {
        let server = try Running(
            "env",
            ["--block-signal=TERM,INT,USR1,CHLD,CONT", forkserveProgram, "exec", "127.0.0.1:0", "--", "grep", "SigBlk"]
                + ["/proc/self/status"])
        let address = try listeningAddress(of: server)
        #expect(try Client(address).receiveAll() == "SigBlk:\t0000000000000000\n")
        try stop(server)
    }

    @Test(
        "programs that are held by a tracer of their own cost no processor, and neither limit nor stop",
        arguments: [[], ["--leave-daemons"]])
    func held(options: [String]) throws {
        let scenarios = builtProgram("scenarios")
        let (server, address) = try forkserve(
            ["exec", "--drain-timeout", "1", "--kill-timeout", "1"] + options + [
                "127.0.0.1:0", "--", scenarios, "be-held",
            ])
        var tracers: [pid_t] = []
        defer { for pid in tracers { kill(pid, SIGKILL) } }
        let begun = try cpuTicks(of: server.pid)
        for round in 0..<2 {
            var programs: [Substring] = []
            for _ in 0..<(round == 0 ? 17 : 1) {
                let words = try Client(address).receive().split(separator: "\n")[0].split(separator: " ")
                tracers.append(pid_t(words[0])!)
                programs.append(words[1])
            }
            for program in programs { try server.waitForError("child \(program), peer ") }
        }
        #expect(server.errors.contains(": has ended, but cannot be reaped, because a debugger or tracer holds it\n"))
        #expect(try cpuTicks(of: server.pid) - begun < 100, "a second of a processor")
        server.send(SIGTERM)
        #expect(try server.wait() == 0)
        for pid in tracers { kill(pid, SIGKILL) }
        try server.expectNothingAlive()
    }

    @Test(
        "processes that a program makes forkserve's own are reaped",
        arguments: [["exec"], ["exec", "--leave-daemons"], ["echo"], ["prefork"]])
    func strangers(command: [String]) throws {
        // Only exec runs a program of ours; the others are to begin all the same.
        let program = command[0] == "exec" ? ["--", builtProgram("scenarios"), "make-strangers"] : []
        let (server, address) = try forkserve(command + ["127.0.0.1:0"] + program)
        if command[0] == "exec" {
            let client = try Client(address)
            #expect(try client.receive() == "made\n")
            try eventually("strangers are left") { children(of: server.pid).count == 1 }
            client.finishSending()
        }
        try stop(server)
    }

    private func cpuTicks(of pid: pid_t) throws -> Int {
        let text = try #require(contents(of: "/proc/\(pid)/stat"))
        let fields = text[text.lastIndex(of: ")")!...].split(separator: " ")
        return Int(fields[12])! + Int(fields[13])!
    }
}
