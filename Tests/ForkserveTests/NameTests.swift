// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// forkserve executes itself once more, with what the command line asked for in FORKSERVE_JOB: nobody may see of it.
@Suite("forkserve, executed anew")
struct NameTests {
    private func commandLine(of pid: pid_t) -> [Substring] {
        (contents(of: "/proc/\(pid)/cmdline") ?? "").split(separator: "\0", omittingEmptySubsequences: false).dropLast()
    }

    private func name(of pid: pid_t) -> String { String((contents(of: "/proc/\(pid)/comm") ?? "").dropLast()) }

    /// Starts forkserve with a FORKSERVE_JOB of ours, in which `$$` stands for its process's number.
    private func forkserve(job: String, _ arguments: [String]) throws -> (Running, address: String) {
        try ForkserveTests.forkserve(shell: "export FORKSERVE_JOB=\"\(job)\"; exec \"$0\" \"$@\"", arguments)
    }

    @Test("the command line is as it was typed, and the process and its children bear the program's name")
    func ownName() throws {
        let arguments = ["echo", "--max-children", "7", "127.0.0.1:0"]
        let (server, address) = try ForkserveTests.forkserve(arguments)
        let client = try Client(address)
        try client.echo("hello")
        let program = String(
            forkserveProgram[forkserveProgram.lastIndex(of: "/").map { forkserveProgram.index(after: $0) }!...])
        for pid in [server.pid] + children(of: server.pid) {
            #expect(commandLine(of: pid).map(String.init) == [forkserveProgram] + arguments)
            #expect(name(of: pid) == String(program.prefix(15)))
        }
        client.finishSending()
        try stop(server)
    }

    @Test(
        "its name is the last part of argv[0], cut off where the kernel would",
        arguments: [
            ("./a/serve", "serve"), ("serve", "serve"), ("/x/a-name-of-more-than-15", "a-name-of-more-"),
            ("-serve", "-serve"),
        ])
    func otherNames(typed: String, name expected: String) throws {
        // Not every sh has `exec -a`.
        let (server, address) = try ForkserveTests.forkserve(
            shell: "exec bash -c 'exec -a \"$1\" \"$0\" echo 127.0.0.1:0' \"$0\" \(typed)")
        #expect(name(of: server.pid) == expected)
        #expect(commandLine(of: server.pid) == [Substring(typed), "echo", "127.0.0.1:0"])
        try Client(address).echo("named")
        try stop(server)
    }

    @Test("neither programs nor the environment that they get know of the job")
    func notPassedOn() throws {
        let (server, address) = try ForkserveTests.forkserve(["exec", "127.0.0.1:0", "--", "cat", "/proc/self/environ"])
        let environment = try Client(address).receiveAll()
        #expect(environment.contains("PROTO=TCP") && !environment.contains("FORKSERVE_JOB"))
        try stop(server)
        let (other, place) = try forkserve(job: "somebody else's", ["exec", "127.0.0.1:0", "--", "env"])
        let variables = try Client(place).receiveAll()
        #expect(variables.contains("PROTO=TCP") && !variables.contains("FORKSERVE_JOB"))
        try stop(other)
    }

    @Test(
        "a job that this process did not leave itself is no job",
        arguments: [
            "", " ", "rubbish", "1", "1 echo", "$$", "$$ ", "$$ rubbish", "$$ echo 0 40 0 1024 0 10.0 3.0 false",
            // Believed, these would keep it from serving, the first by a trap.
            "1 echo 0 40 0 1024 0 nan 3.0 false false 127.0.0.1:0",
            "echo 0 40 0 1024 0 1e300 3.0 false false 127.0.0.1:0",
            "1 program 1000 40 0 1024 0 10.0 3.0 false false 127.0.0.1:0",
            "1 program -5 40 0 1024 0 10.0 3.0 false false 127.0.0.1:0",
            // And these would serve otherwise than was asked for.
            "1 echo 0 40 0 1024 0 10.0 3.0 false false unix:@forkserve-not-asked-for",
            "echo 0 40 0 1024 0 10.0 3.0 false false unix:@forkserve-not-asked-for",
            "-$$ echo 0 40 0 1024 0 10.0 3.0 false false unix:@forkserve-not-asked-for",
        ])
    func foreignJob(job: String) throws {
        let (server, address) = try forkserve(job: job, ["echo", "127.0.0.1:0"])
        #expect(address.hasPrefix("127.0.0.1:"))
        try Client(address).echo("as was asked for")
        try stop(server)
        #expect(server.errors == "")
    }

    @Test("a command line that is wrong stays so whatever the variable says")
    func wrongUsage() throws {
        let job = "FORKSERVE_JOB='1 echo 0 40 0 1024 0 10.0 3.0 false false 127.0.0.1:0'"
        let (status, output, errors) = try outcome(
            ["-c", "\(job) exec '\(forkserveProgram)' echo nonsense"], program: "sh")
        #expect(status == 64 && output == "" && errors.contains("'nonsense' is not an address"), "\(errors)")
    }

    @Test(
        "without /proc it does what it was asked for", .needs("unshare", package: "util-linux"),
        .enabled(if: getuid() == 0, "needs root, for a mount namespace"))
    func withoutProc() throws {
        let directory = try TemporaryDirectory()
        let script = "umount -l /proc && exec \"$0\" \"$@\""
        func forkserve(_ arguments: [String]) throws -> Running {
            try Running("unshare", ["-m", "sh", "-c", script, forkserveProgram] + arguments)
        }
        let address = "unix:\(directory.path)/socket"
        let program = [address, "--", "sh", "-c", "echo $1", "sh", "an argument"]
        let server = try forkserve(["exec", "--leave-daemons"] + program)
        #expect(try listeningAddress(of: server) == address)
        #expect(try Client(address).receiveAll() == "an argument\n")
        try stop(server)
        let wrong = try forkserve(["echo", "nonsense"])
        #expect(try wrong.wait() == 64 && wrong.errors.contains("'nonsense' is not an address"), "\(wrong.errors)")
        // What the programs start could not be found there.
        let refused = try forkserve(["exec"] + program)
        #expect(try refused.wait() == 71 && refused.output == "")
        let told = "forkserve: without --leave-daemons forkserve tracks what programs start, which needs /proc"
        #expect(refused.errors.hasPrefix(told), "\(refused.errors)")
        #expect(refused.errors.filter { $0 == "\n" }.count == 1, "\(refused.errors)")
    }
}
