// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("Whom processes act as")
struct IdentityTests {
    private func line(_ name: String, of pid: pid_t) -> [String]? {
        contents(of: "/proc/\(pid)/status")?.split(separator: "\n").first { $0.hasPrefix(name + ":") }
            .map { $0.split { $0 == "\t" || $0 == " " }.dropFirst().map(String.init) }
    }

    @Test("a program is the user, its group and its groups, and has the score", .needsRoot)
    func programs() throws {
        let (server, address) = try forkserve(
            [
                "exec", "--user", "4321:1234", "--oom-score-adj", "321", "127.0.0.1:0", "--", "sh", "-c",
                "id -u; id -g; id -G; cat /proc/self/oom_score_adj",
            ])
        let own = contents(of: "/proc/\(server.pid)/oom_score_adj")
        #expect(try Client(address).receiveAll() == "4321\n1234\n1234\n321\n")
        #expect(contents(of: "/proc/\(server.pid)/oom_score_adj") == own)
        #expect(line("Uid", of: server.pid) == ["0", "0", "0", "0"])
        try stop(server)
    }

    @Test(
        "children and workers are, too", .needsRoot,
        arguments: [["echo"], ["prefork", "--workers", "1"]])
    func handlers(command: [String]) throws {
        let (server, address) = try forkserve(command + ["--user", "nobody:4321", "127.0.0.1:0"])
        let client = try Client(address)
        try client.echo("hello")
        let child = try #require(children(of: server.pid).first)
        let nobody = String(getpwnam("nobody").pointee.pw_uid)
        #expect(line("Uid", of: child) == Array(repeating: nobody, count: 4))
        #expect(line("Gid", of: child) == Array(repeating: "4321", count: 4))
        client.finishSending()
        try stop(server)
    }

    @Test("one that is another user dies with its parent all the same", .needsRoot)
    func death() throws {
        let (server, address) = try forkserve(
            [
                "exec", "--leave-daemons", "--user", "4321:4321", "127.0.0.1:0", "--", "sh", "-c",
                "echo $$; exec sleep 1000",
            ])
        let client = try Client(address)
        let program = try #require(pid_t(try client.receive().dropLast()))
        server.send(SIGKILL)
        _ = try server.wait()
        try eventually("it lives on") { Process(program) == nil }
        withExtendedLifetime(client) {}
    }

    @Test(
        "what takes rights that the server has not is said at the start", .needsRoot,
        .needs("setpriv", package: "util-linux"),
        arguments: [
            (["--user", "nobody"], "setgroups: Operation not permitted"),
            (["--oom-score-adj", "-900"], "write oom_score_adj: Permission denied"),
        ])
    func refused(options: [String], reason: String) throws {
        let (status, output, errors) = try outcome(
            ["--bounding-set", "-all", forkserveProgram, "echo"] + options + ["127.0.0.1:0"], program: "setpriv")
        #expect(status == EX_OSERR && output == "")
        #expect(errors == "forkserve: --user or --oom-score-adj cannot be set, which takes root: \(reason)\n")
    }

    @Test("a program has the name that was asked for, and its client reads its stderr where that was")
    func nameAndErrors() throws {
        let (server, address) = try forkserve(
            [
                "exec", "--argv0", "-login name", "--stderr-to-client", "127.0.0.1:0", "--", "sh", "-c",
                "echo \"$0\" >&2",
            ])
        #expect(try Client(address).receiveAll() == "-login name\n")
        try stop(server)
        #expect(server.errors == "")
    }
}
