// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// Where nobody reads what a server says, it serves on, and stops when it is told to.
@Suite("forkserve's own lines")
struct LinesTests {
    private let directory = try! TemporaryDirectory()
    private var address: String { "unix:\(directory.path)/socket" }
    private var control: String { directory.path + "/control" }

    private static let setPipeSize: Int32 = 1031  // F_SETPIPE_SZ, which Glibc's module hides

    /// Both ends of something that takes a page or two of lines, and is full then.
    private func narrow(_ kind: String) throws -> (read: Int32, write: Int32) {
        switch kind {
        case "pipe":
            let ends = try pipe()
            _ = fcntl(ends.write, Self.setPipeSize, 4096)
            return ends
        case "FIFO":
            let path = directory.path + "/fifo"
            try expect(mkfifo(path, 0o600) == 0, "mkfifo")
            let both = open(path, O_RDWR | O_CLOEXEC)
            _ = fcntl(both, Self.setPipeSize, 4096)
            return (both, dup(both))
        default:
            let master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC)
            var number: Int32 = 0
            try expect(ioctl(master, 0x4004_5431, &number) == 0, "TIOCSPTLCK")
            try expect(ioctl(master, 0x8004_5430, &number) == 0, "TIOCGPTN")
            let slave = open("/dev/pts/\(number)", O_RDWR | O_NOCTTY | O_CLOEXEC)
            tcflow(slave, Int32(TCOOFF))  // ^S
            return (master, slave)
        }
    }

    private func close(_ ends: (read: Int32, write: Int32)) {
        Glibc.close(ends.read)
        Glibc.close(ends.write)
    }

    /// All that is there to be read.
    private func drain(_ descriptor: Int32) -> String {
        var bytes = [UInt8](repeating: 0, count: 65_536)
        var all: [UInt8] = []
        var polled = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        while poll(&polled, 1, 0) == 1, case let count = read(descriptor, &bytes, bytes.count), count > 0 {
            all += bytes.prefix(count)
        }
        return String(decoding: all, as: UTF8.self)
    }

    @Test("an unread stderr keeps nobody waiting, nor a stop", arguments: ["pipe", "FIFO", "terminal"])
    func unread(kind: String) throws {
        let ends = try narrow(kind)
        defer { close(ends) }
        let (server, _) = try forkserve(
            ["exec", "--control", control, address, "--", "/bin/sh", "-c", "echo hi; exit 3"],
            inherited: [2: ends.write])
        func serve(_ count: Int) throws {
            for _ in 0..<count { #expect(try Client(address).receiveAll() == "hi\n") }
            try eventually("children are left") { children(of: server.pid).isEmpty }
        }
        try serve(100)
        #expect(try run(forkserveProgram, ["status", control]).hasPrefix("forking server \(server.pid) "))
        server.send(SIGUSR1)
        try serve(1)
        if kind == "terminal" { tcflow(ends.write, Int32(TCOON)) }
        #expect(drain(ends.read).contains("exited with status 3") == (kind != "terminal"))
        var told = ""
        try serve(1)
        try eventually("it does not say how many lines were lost") {
            told += drain(ends.read)
            return told.contains(" lines were lost")
        }
        let number = told.split(whereSeparator: \.isNewline).first.map { $0.prefix { $0 != " " } }.flatMap { Int($0) }
        #expect((number ?? 0) > 20 && (number ?? 0) <= 105, "\(told)")
        if kind == "terminal" { tcflow(ends.write, Int32(TCOOFF)) }
        try serve(100)
        try stop(server)
    }

    @Test("nor that of a pool, which tells of each worker")
    func unreadPool() throws {
        let ends = try narrow("pipe")
        defer { close(ends) }
        let options = ["--verbose", "--workers", "1", "--max-requests", "1", "--control", control]
        let (server, _) = try forkserve(["prefork"] + options + [address], inherited: [2: ends.write])
        for number in 0..<60 {
            let client = try Client(address)
            try client.echo("client \(number)")
        }
        #expect(try run(forkserveProgram, ["status", control]).hasPrefix("prefork server \(server.pid) "))
        let workers = children(of: server.pid)
        server.send(SIGHUP)
        try eventually("the workers stay") { Set(children(of: server.pid)).isDisjoint(with: workers) }
        try stop(server)
    }

    @Test("nor that of children, which say what their handlers threw", arguments: ["echo", "prefork"])
    func unreadChildren(command: String) throws {
        let ends = try narrow("pipe")
        defer { close(ends) }
        let options = command == "echo" ? ["--max-children", "4"] : ["--workers", "2"]
        let (server, place) = try forkserve(
            [command, "--verbose"] + options + ["127.0.0.1:0"], inherited: [2: ends.write])
        for _ in 0..<200 {
            let client = try Client(place)
            try client.echo("hello")
            client.resetWhenClosed()
        }
        try Client(place).echo("still there")
        try stop(server)
    }

    @Test("a stdout that nobody reads is not waited for either", arguments: ["echo", "prefork"])
    func unreadOutput(command: String) throws {
        let ends = try narrow("pipe")
        defer { close(ends) }
        _ = fcntl(ends.write, F_SETFL, O_NONBLOCK)
        while write(ends.write, "x", 1) == 1 {}
        _ = fcntl(ends.write, F_SETFL, 0)
        let running = try Running(forkserveProgram, [command, address], inherited: [1: ends.write])
        try eventually("nobody serves") { (try? Client(address).echo("hello")) != nil }
        #expect(fcntl(ends.write, F_GETFL) & O_NONBLOCK == 0)
        running.send(SIGTERM)
        #expect(try running.wait() == 0, "\(running.errors)")
        try running.expectNothingAlive()
    }

    @Test("in the background of a terminal under tostop neither server nor child is stopped by its lines")
    func backgroundOfTerminal() throws {
        let ends = try narrow("terminal")
        tcflow(ends.write, Int32(TCOON))
        defer { close(ends) }
        // script(1) would do, but for a job in the background: a shell that has the terminal, and a server that has
        // not.
        let job = "stty tostop <&3; set -m; \"$0\" echo --verbose \"$1\" 2>&3 3>&- & wait $!"
        let running = try Running(
            "setsid", ["--ctty", "--wait", "sh", "-c", job, forkserveProgram, address], inherited: [3: ends.write],
            input: ends.write)
        #expect(try running.line() == "listening on \(address)")
        let server = try #require(
            processes().first { contents(of: "/proc/\($0)/cmdline")?.contains("echo\0--verbose\0\(address)") == true })
        for _ in 0..<3 {
            try Client(address).echo("hello")
            try eventually("children are left") { children(of: server).isEmpty }
        }
        var told = ""
        try eventually("it says nothing: \(Process(server)?.state as Any)") {
            told += drain(ends.read)
            return told.contains("exited with status 0")
        }
        kill(server, SIGTERM)
        #expect(try running.wait() == 0, "\(running.errors) \(told)")
    }

    // MARK: What is no trouble

    @Test("clients that leave early are no trouble; --verbose tells of them", arguments: [false, true])
    func earlyLeavers(verbose: Bool) throws {
        let options = verbose ? ["--verbose"] : []
        let (server, place) = try forkserve(
            ["exec"] + options + [
                "127.0.0.1:0", "--", "/bin/sh", "-c", "echo 220 ready; read x; while :; do echo bye; done",
            ])
        for _ in 0..<3 {
            let client = try Client(place)
            #expect(try client.receive(upTo: 4) == "220 ")
            client.resetWhenClosed()
        }
        if verbose { try server.waitForError("killed by SIGPIPE") }
        try eventually("programs are left") { children(of: server.pid).isEmpty }
        try stop(server)
        #expect(server.errors.isEmpty != verbose, "\(server.errors)")
    }

    @Test(
        "a handler's client that resets is no trouble; --verbose tells of it", arguments: ["echo", "prefork"],
        [false, true])
    func resets(command: String, verbose: Bool) throws {
        let options = verbose ? ["--verbose"] : []
        let (server, place) = try forkserve([command] + options + ["127.0.0.1:0"])
        for _ in 0..<3 {
            let client = try Client(place)
            try client.echo("hello")
            client.resetWhenClosed()
        }
        if verbose {
            try server.waitForError("Connection reset by peer")
            let start = "forkserve: \(command == "prefork" ? "worker" : "child") "
            let line = server.errors.split(separator: "\n").first { $0.contains("Connection reset by peer") }
            #expect(line?.hasPrefix(start) == true, "\(server.errors)")
        }
        try Client(place).echo("still there")
        try stop(server)
        if !verbose { #expect(server.errors == "") }
    }

    // MARK: Files that are full

    @Test(
        "a log that has reached RLIMIT_FSIZE ends nobody; programs have the signal's default",
        arguments: ["exec", "prefork"])
    func fullFile(command: String) throws {
        let log = directory.path + "/log"
        try writeFile(log, [UInt8](repeating: 10, count: 1024))
        let program = command == "exec" ? "-- sh -c 'grep -e SigIgn -e SigBlk /proc/self/status; exit 3'" : ""
        let (server, _) = try forkserve(
            shell: "ulimit -f 1; exec \"$0\" \(command) --verbose --control \"$2\" \"$1\" \(program) 2>>\"$3\"",
            [address, control, log])
        for _ in 0..<3 {
            let client = try Client(address)
            if command == "exec" {
                let masks = try client.receiveAll().split(separator: "\n").compactMap {
                    $0.split(separator: "\t").last.flatMap { UInt64($0, radix: 16) }
                }
                #expect(masks.map { $0 & (1 << UInt64(SIGXFSZ - 1)) } == [0, 0])
            } else {
                try client.echo("hello")
            }
        }
        // Short enough for the limit, or an error of the asking side; never the server's end.
        let asking = try Running(forkserveProgram, ["status", control])
        try asking.wait()
        #expect(Process(server.pid) != nil)
        try stop(server)
        #expect(contents(of: log) == String(repeating: "\n", count: 1024))
    }

    @Test("a status that is longer than RLIMIT_FSIZE allows is not answered, and ends nobody")
    func longStatus() throws {
        let (server, _) = try forkserve(
            shell: "ulimit -f 1; exec \"$0\" echo --control \"$2\" \"$1\"", [address, control])
        let clients = try (0..<30).map { _ in try Client(address) }
        for client in clients { try client.echo("hello") }
        let asking = try Running(forkserveProgram, ["status", control])
        #expect(try asking.wait() == 71 && asking.errors.contains("closed without an answer"), "\(asking.errors)")
        try clients[0].echo("still there")
        for client in clients { client.finishSending() }
        try stop(server)
    }
}
