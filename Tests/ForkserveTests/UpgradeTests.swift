// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// A parent among a server's descendants that has been started by an upgrade.
private func newParent(of server: Running) throws -> pid_t {
    var found: pid_t?
    try eventually("no new program serves") {
        let all = server.descendants
        found = all.first { pid in
            guard let process = Process(pid), !process.isZombie else { return false }
            return commandLine(of: pid) == commandLine(of: server.pid) && !all.contains(process.parent)
                && process.parent != server.pid
        }
        return found != nil
    }
    return found!
}

private func commandLine(of pid: pid_t) -> String { contents(of: "/proc/\(pid)/cmdline") ?? "" }

@Suite("forkserve echo and exec: SIGUSR2")
struct UpgradeTests {
    private let directory = try! TemporaryDirectory()
    private var path: String { directory.path + "/socket" }

    private func words(_ command: String, _ options: [String]) -> [String] {
        [command] + options + (command == "exec" ? ["--", "cat"] : [])
    }

    @Test(
        "the new program accepts at once, the old one serves its clients to their end, and the file stays",
        arguments: ["echo", "exec"])
    func unixSocket(command: String) throws {
        let server = try Running(
            forkserveProgram, words(command, ["--drain-timeout", "60", "unix:\(path)", "127.0.0.1:0"]))
        let addresses = try listeningAddresses(of: server, 2)
        let old = try addresses.map { try Client($0) }
        for client in old { try client.echo("before") }
        server.send(SIGUSR2)
        #expect(try listeningAddresses(of: server, 2) == addresses)
        let new = try newParent(of: server)
        for address in addresses {
            let client = try Client(address)
            try client.echo("at once")
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        for client in old {
            try client.echo("still")
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        #expect(try server.wait() == 0, "\(server.errors)")
        #expect(fileExists(path))
        try Client("unix:\(path)").echo("after")
        kill(new, SIGTERM)
        try server.expectNothingAlive()
        #expect(!fileExists(path))
    }

    @Test("datagrams")
    func datagrams() throws {
        let (server, address) = try forkserve(["echo", "--udp", "127.0.0.1:0"])
        let client = try DatagramClient(address)
        server.send(SIGUSR2)
        #expect(try listeningAddress(of: server) == address && server.wait() == 0)
        try client.send("to the new one")
        #expect(try client.receive() == "to the new one")
        for pid in server.descendants { kill(pid, SIGTERM) }
        try server.expectNothingAlive()
    }

    @Test("one that does not start changes nothing")
    func broken() throws {
        let program = directory.path + "/forkserve"
        try run("cp", [forkserveProgram, program])
        let server = try Running(program, ["echo", "unix:\(path)"])
        let address = try listeningAddress(of: server)
        let descriptors = openDescriptors(of: server.pid).count
        try writeFile(program + ".new", Array("#!/bin/sh\nexit 3\n".utf8))
        try run("chmod", ["755", program + ".new"])
        try run("mv", [program + ".new", program])
        for _ in 0..<2 {
            server.send(SIGUSR2)
            try server.waitForError("exited with status 3 after")
            try Client(address).echo("still here")
        }
        try eventually("a descriptor is left") { openDescriptors(of: server.pid).count == descriptors }
        try stop(server)
        #expect(!fileExists(path))
    }

    @Test("an address with a zone that means nothing")
    func zone() throws {
        let server = try Running(forkserveProgram, ["echo", "[::1%lo]:0"])
        let address = try listeningAddress(of: server)
        server.send(SIGTERM)
        try server.wait()
        let port = address.split(separator: ":").last!
        let (again, _) = try forkserve(["echo", "[::1%lo]:\(port)"])
        again.send(SIGUSR2)
        _ = try listeningAddress(of: again)
        #expect(try again.wait() == 0, "\(again.errors)")
        try Client("[::1]:\(port)").echo("from the new one")
        for pid in again.descendants { kill(pid, SIGTERM) }
        try again.expectNothingAlive()
    }

    @Test(
        "started by a relative path behind a link, what the link leads to then is taken",
        arguments: ["echo", "prefork"])
    func behindLink(command: String) throws {
        let releases = [directory.path + "/one", directory.path + "/two"]
        for release in releases {
            mkdir(release, 0o755)
            try run("cp", [forkserveProgram, release + "/forkserve"])
        }
        let link = directory.path + "/current"
        try run("ln", ["-s", releases[0], link])
        let server = try Running("sh", ["-c", "cd '\(link)' && exec ./forkserve \(command) unix:\(path)"])
        _ = try listeningAddress(of: server)
        try run("ln", ["-sfn", releases[1], link])
        try run("rm", ["-r", releases[0]])
        server.send(SIGUSR2)
        _ = try listeningAddress(of: server)
        #expect(try server.wait() == 0, "\(server.errors)")
        try Client("unix:\(path)").echo("from the second release")
        for pid in server.descendants { kill(pid, SIGTERM) }
        try server.expectNothingAlive()
    }
}

@Suite("Signals that would have ended forkserve at once")
struct LastResortTests {
    static let cases: [(command: String, signal: Int32)] = [
        ("echo", SIGHUP), ("exec", SIGHUP), ("echo", SIGQUIT), ("exec", SIGQUIT), ("prefork", SIGQUIT),
    ]

    @Test("drain", arguments: cases)
    func drain(command: String, signal: Int32) throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/socket"
        let (server, address) = try forkserve(
            [command, "--drain-timeout", "60", "unix:\(path)"] + (command == "exec" ? ["--", "cat"] : []))
        let client = try Client(address)
        try client.echo("before")
        server.send(signal)
        try eventually("still listening") { (try? Client(address)) == nil }
        try client.echo("while it drains")
        client.finishSending()
        #expect(try client.receiveAll() == "" && server.wait() == 0, "\(server.errors)")
        #expect(!fileExists(path))
        try server.expectNothingAlive()
    }

    @Test("stay ignored where they were, as by nohup", arguments: [SIGHUP, SIGQUIT])
    func ignored(signal: Int32) throws {
        let name = signal == SIGHUP ? "HUP" : "QUIT"
        let (server, address) = try forkserve(shell: "trap '' \(name); exec \"$0\" echo 127.0.0.1:0")
        server.send(signal)
        server.send(SIGUSR1)
        try server.waitForError("children: 0 of 40\n")  // had the other been taken, it would have come before
        try Client(address).echo("still here")
        try stop(server)
    }

    @Test("what is meant for the parent does nothing to workers")
    func workers() throws {
        let (server, address) = try forkserve(["prefork", "--workers", "1", "--verbose", "127.0.0.1:0"])
        let client = try Client(address)
        try client.echo("before")
        let worker = try #require(liveChildren(of: server.pid).first)
        for signal in [SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU] {
            kill(worker, signal)
            try client.echo("after \(signal)")
        }
        #expect(liveChildren(of: server.pid) == [worker])
        client.finishSending()
        try stop(server)
    }
}
