// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve's command line")
struct UsageTests {
    @Test("without arguments it says what it can do")
    func noArguments() throws {
        let (status, output, errors) = try outcome([])
        #expect(status == 0 && errors == "")
        for text in [
            "forkserve echo", "forkserve exec", "forkserve status", "127.0.0.1:7777", "unix:", "fd:3", "SIGTERM",
            "SIGUSR1",
        ] {
            #expect(output.contains(text), "no word of \(text)")
        }
    }

    @Test(
        "--help says what there is",
        arguments: [
            (["--help"], ["SUBCOMMANDS", "echo", "exec"]),
            (["echo", "--help"], ["127.0.0.1:7777", "--udp", "--once", "--max-children", "--timeout", "--verbose"]),
            (
                ["exec", "--help"],
                [
                    "-- PROGRAM", "TCPREMOTEIP", "REMOTE_ADDR", "--backlog", "--drain-timeout", "--kill-timeout",
                    "--control",
                ]
            ),
            (["status", "--help"], ["<path>", "--json", "--control", "PSS"]),
        ])
    func help(arguments: [String], texts: [String]) throws {
        let (status, output, errors) = try outcome(arguments)
        #expect(status == 0 && errors == "")
        for text in texts { #expect(output.contains(text), "no word of \(text)") }
    }

    @Test("--version prints the number of CHANGELOG's newest heading", arguments: [[], ["echo"], ["exec"], ["status"]])
    func version(command: [String]) throws {
        let root = "\(#filePath)".split(separator: "/").dropLast(3).map { "/" + $0 }.joined()
        let changes = try #require(contents(of: root + "/CHANGELOG.md"))
        let headings = changes.split(separator: "\n").filter { $0.hasPrefix("## [") && $0 != "## [Unreleased]" }
        let number = try #require(headings.first).dropFirst("## [".count).prefix { $0 != "]" }
        let (status, output, errors) = try outcome(command + ["--version"])
        #expect(status == 0 && errors == "")
        #expect(output == "forkserve \(number)\n")
    }

    @Test("what stands behind -- is the program's, --version and --help too", arguments: ["--version", "--help"])
    func programsOwn(option: String) throws {
        let (server, address) = try forkserve(["exec", "127.0.0.1:0", "--", "echo", "-n", "asked for", option])
        #expect(try Client(address).receiveAll() == "asked for \(option)")
        try stop(server)
    }

    /// Wrong command lines, and what the first line on stderr must speak of.
    static let wrong: [(arguments: [String], texts: [String])] = [
        (["echo", "--user", "no such", "127.0.0.1:0"], ["--user: there is no user 'no such' in /etc/passwd"]),
        (["echo", "--user", "4000", "127.0.0.1:0"], ["say the group too, as in 4000:4000"]),
        (["echo", "--oom-score-adj", "-1001", "127.0.0.1:0"], ["--oom-score-adj is -1001", "from -1000 to 1000"]),
        (["exec", "--udp", "127.0.0.1:0", "--", "true"], ["--udp needs --wait"]),
        (
            ["exec", "--wait", "--stderr-to-client", "127.0.0.1:0", "--", "true"],
            ["--stderr-to-client", "cannot be used with --wait"]
        ),
        (["exec", "--wait", "--no-delay", "127.0.0.1:0", "--", "true"], ["--no-delay", "cannot be used with --wait"]),
        (["echo", "nonsense"], ["'nonsense' is not an address", "127.0.0.1:7777"]),
        (["echo", "127.0.0.1"], ["'127.0.0.1' is not an address", "127.0.0.1:7777"]),
        (["echo", "127.0.0.1:"], ["not a port", "0 to 65535"]),
        (["echo", "127.0.0.1:65536"], ["'65536'", "not a port", "0 to 65535"]),
        (["echo", "127.0.0.1:-1"], ["'-1'", "not a port"]),
        (["echo", "1.2.3:80"], ["'1.2.3' is not a numeric IP address"]),
        (["echo", "example.com:80"], ["'example.com' is not a numeric IP address", "names are not looked up"]),
        (["echo", "http://127.0.0.1:80"], ["'http://'", "neither tcp:// nor unix://"]),
        (["echo", "vsock:2:80"], ["vsock(7)", "not served"]),
        (["echo", "::1:80"], ["needs brackets", "[::1]:7777"]),
        (["echo", "unix:"], ["needs a path", "unix:/run/x.sock"]),
        (["echo", "unix:/" + String(repeating: "x", count: 107)], ["108 bytes", "107"]),
        (["echo", "fd:x"], ["'fd:x' is not a descriptor", "fd:3"]),
        (["echo", "--max-children", "0", "127.0.0.1:0"], ["--max-children is 0", "from 1"]),
        (["echo", "--max-children", "many", "127.0.0.1:0"], ["'many' is invalid for '--max-children"]),
        (["echo", "--backlog", "0", "127.0.0.1:0"], ["--backlog is 0", "from 1 to 2147483647"]),
        (["echo", "--backlog", "2147483648", "127.0.0.1:0"], ["--backlog is 2147483648", "from 1 to 2147483647"]),
        (["echo", "--timeout", "0", "127.0.0.1:0"], ["--timeout is 0", "seconds"]),
        (["echo", "--timeout", "nan", "127.0.0.1:0"], ["--timeout is nan", "seconds"]),
        (["echo", "--timeout=-1", "127.0.0.1:0"], ["--timeout is -1", "above 0"]),
        (["echo", "--timeout", "1e-20", "127.0.0.1:0"], ["--timeout is 1e-20", "above 0"]),
        (["echo", "--timeout", "2e9", "127.0.0.1:0"], ["--timeout is 2000000000.0", "at most 1000000000"]),
        (["echo", "--timeout", "abc", "127.0.0.1:0"], ["'abc' is invalid for '--timeout <seconds>'"]),
        (["echo", "--drain-timeout", "inf", "127.0.0.1:0"], ["--drain-timeout is inf", "seconds"]),
        (["echo", "--kill-timeout=-0.1", "127.0.0.1:0"], ["--kill-timeout is -0.1", "from 0"]),
        (["echo", "--udp", "--once", "127.0.0.1:0"], ["--once is for connections", "--udp"]),
        (["echo", "--bogus", "127.0.0.1:0"], ["Unknown option '--bogus'"]),
        (["bogus"], ["Unexpected argument 'bogus'"]),
        (["exec"], ["<address>"]),
        (["exec", "127.0.0.1:0"], ["no program to run", "-- PROGRAM"]),
        (
            ["exec", "127.0.0.1:0", "--", "no-such-program"],
            ["there is no executable program 'no-such-program' in PATH"]
        ),
        (["exec", "127.0.0.1:0", "--", "/nonexistent/cat"], ["'/nonexistent/cat'", "No such file"]),
        (["exec", "127.0.0.1:0", "--", "/"], ["'/' is not a program"]),
        (["exec", "127.0.0.1:0", "--", "/etc/passwd"], ["'/etc/passwd' cannot be executed", "Permission denied"]),
    ]

    @Test("wrong usage: one line says what is wrong and what would be right; status 64", arguments: wrong)
    func wrongUsage(arguments: [String], texts: [String]) throws {
        let (status, output, errors) = try outcome(arguments)
        #expect(status == 64)
        #expect(output == "")
        let line = errors.dropLast()
        #expect(!line.contains("\n") && line.hasPrefix("forkserve: "), "\(line)")
        for text in texts { #expect(line.contains(text), "\(line)") }
    }

    @Test("a descriptor of the wrong kind is wrong usage", arguments: [true, false])
    func wrongKind(datagram: Bool) throws {
        let socket = try boundSocket("127.0.0.1:0", datagram: datagram)
        defer { close(socket) }
        for command in datagram ? [["echo"], ["prefork"], ["exec"]] : [["echo", "--udp"]] {
            let program = command == ["exec"] ? ["--", "cat"] : []
            let running = try Running(forkserveProgram, command + ["fd:5"] + program, inherited: [5: socket])
            #expect(try running.wait() == 64)
            #expect(running.errors.contains("fd:5 is a socket for \(datagram ? "datagrams" : "connections")"))
            #expect(running.errors.filter { $0 == "\n" }.count == 1, "\(running.errors)")
        }
    }

    @Test(
        "what people type for an address",
        arguments: [("localhost:0", "127.0.0.1:"), ("0", "0.0.0.0:"), ("*:0", "0.0.0.0:")])
    func typed(address: String, served: String) throws {
        let (server, place) = try forkserve(["echo", address])
        #expect(place.hasPrefix(served))
        try Client("127.0.0.1:" + place.split(separator: ":").last!).echo("hello")
        try stop(server)
    }

    @Test("what the system refuses: one line; status 71")
    func refused() throws {
        let directory = try TemporaryDirectory()
        let (server, taken) = try forkserve(["echo", "127.0.0.1:0"])
        let plain = directory.path + "/plain"
        try writeFile(plain, Array("precious".utf8))
        let cases = [
            (taken, "Address already in use"), ("192.0.2.1:1", "Cannot assign requested address"),
            ("unix:\(directory.path)/missing/x", "No such file or directory"), ("unix:\(plain)", "not a socket"),
            ("fd:77", "descriptor 77 is not open"), ("fd:0", "descriptor 0 is not a socket"),
            ("systemd", "LISTEN_FDS"),
        ]
        for (address, reason) in cases {
            let (status, output, errors) = try outcome(["echo", address])
            #expect(status == 71 && output == "", "\(address)")
            #expect(errors.hasPrefix("forkserve: ") && errors.contains(reason), "\(errors)")
            #expect(errors.filter { $0 == "\n" }.count == 1, "\(errors)")
        }
        #expect(contents(of: plain) == "precious")
        try stop(server)
    }

    @Test("forkserve echo alone serves 127.0.0.1:7777")
    func defaultAddress() throws {
        let running = try Running(forkserveProgram, ["echo"])
        guard let line = try running.line() else {
            // Another server may well be there; nothing else may be wrong.
            #expect(try running.wait() == 71)
            #expect(running.errors.contains("127.0.0.1:7777: Address already in use"), "\(running.errors)")
            return
        }
        #expect(line == "listening on 127.0.0.1:7777")
        try Client("127.0.0.1:7777").echo("here")
        try stop(running)
    }
}
