// SPDX-License-Identifier: Apache-2.0

import Glibc
import Synchronization
import TestSupport
import Testing

private let hello = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello\n"
private let helloAndClose = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n"

/// Of which each tells where it ends.
let wholeAnswers = [
    hello, helloAndClose, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + hello,
    "HTTP/1.1 200 OK\r\ncontent-length:6 \r\n\r\nhello\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nhel\r\n3\r\nlo\n\r\n0\r\nA: b\r\n\r\n",
]

/// What `forkbench load` makes of answers that are known.
@Suite("forkbench load counts") struct LoadTests {
    private struct Outcome {
        let status: Int32
        let json: String
        let line: String
        let requests: [String]

        func count(_ key: String) -> Int? {
            let parts = json.split(separator: ",").map { $0.split(separator: ":") }
            return parts.first { $0.first == "\"\(key)\"" }.flatMap { Int($0[1]) }
        }

        /// requests, failed, retried, other_status
        var counts: [Int?] { ["requests", "failed", "retried", "other_status"].map(count) }
    }

    private func load(_ steps: [ScriptedServer.Step], _ arguments: [String]) throws -> Outcome {
        let server = try ScriptedServer(steps)
        defer { server.stop() }
        let running = try Running(
            builtProgram("forkbench"), ["load", server.address, "--connections", "1", "--json", "-"] + arguments,
            deadline: 60)
        let status = try running.wait()
        return Outcome(
            status: status, json: running.output, line: running.errors, requests: server.requests.withLock { $0 })
    }

    @Test("answers, whichever way their length is told")
    func lengths() throws {
        var steps = wholeAnswers.map { ScriptedServer.Step.answer([$0]) }
        steps += [
            .answerAndClose(["HTTP/1.1 200 OK\r\n\r\nhel", "lo\n"]), .answerAndClose(["HTTP/1.0 200 OK\r\n\r\n"]),
        ]
        let outcome = try load(steps, ["--keep-alive", "--requests", "\(steps.count)"])
        #expect(outcome.counts == [steps.count, 0, 0, 0], "\(outcome.json)\(outcome.line)")
        #expect(outcome.status == 0)
    }

    @Test("an answer cut short as failed, whether by a close or a reset")
    func cutShort() throws {
        let steps: [ScriptedServer.Step] = [
            .answerAndClose(["HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello"]),
            .answerAndClose(["HTTP/1.1 200 OK\r\n"]),
            .answerAndClose(["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello\n\r\n"]), .close, .reset,
            .answer([hello]),
        ]
        for mode in [["--keep-alive"], []] {
            let outcome = try load(steps, mode + ["--requests", "6"])
            #expect(outcome.counts == [6, 5, 0, 0], "\(outcome.json)\(outcome.line)")
            #expect(outcome.line.contains("4 closed before the answer was complete, 1 reset"), "\(outcome.line)")
            #expect(outcome.status == 1)
        }
    }

    @Test("a close of a reused connection before any byte as retried, and sends the request again")
    func retried() throws {
        let steps: [ScriptedServer.Step] = [.answer([hello]), .close, .answer([hello]), .reset, .answer([hello])]
        let outcome = try load(steps, ["--keep-alive", "--requests", "3"])
        #expect(outcome.counts == [3, 0, 2, 0], "\(outcome.json)\(outcome.line)")
        #expect(outcome.requests.count == 5)
        #expect(outcome.status == 0)
    }

    @Test("what was sent again, and found no answer on a new connection either, as failed once")
    func retriedInVain() throws {
        let outcome = try load(
            [.answer([hello]), .close, .close, .answer([hello])], ["--keep-alive", "--requests", "3"])
        #expect(outcome.counts == [3, 1, 1, 0], "\(outcome.json)\(outcome.line)")
        #expect(outcome.status == 1)
    }

    @Test("a close of a reused connection after some bytes as failed")
    func cutShortWhenReused() throws {
        let steps: [ScriptedServer.Step] = [.answer([hello]), .answerAndClose(["HTTP/1.1 2"]), .answer([hello])]
        let outcome = try load(steps, ["--keep-alive", "--requests", "3"])
        #expect(outcome.counts == [3, 1, 0, 0], "\(outcome.json)\(outcome.line)")
    }

    @Test("no retry when the answer had said that the connection closes")
    func announcedClose() throws {
        let outcome = try load([.answerAndClose([helloAndClose])], ["--keep-alive", "--requests", "20"])
        #expect(outcome.counts == [20, 0, 0, 0], "\(outcome.json)\(outcome.line)")
    }

    @Test("other statuses apart, and they are no failures")
    func otherStatus() throws {
        let refusal = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        let outcome = try load(
            [.answer([refusal]), .answer(["HTTP/1.1 204 No Content\r\n\r\n"]), .answer([hello])],
            ["--keep-alive", "--requests", "3"])
        #expect(outcome.counts == [3, 0, 0, 2], "\(outcome.json)\(outcome.line)")
        #expect(outcome.status == 0)
    }

    @Test(
        "what is no answer, or more than one, as failed",
        arguments: [
            "SSH-2.0-x\r\n\r\n", "HTTP/1.1 2x0 OK\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: six\r\n\r\nhello\n",
            hello + hello, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n",
            "HTTP/1.1 200 OK\r\nX: " + String(repeating: "x", count: 9000),
        ])
    func garbage(_ answer: String) throws {
        let outcome = try load([.answer([answer])], ["--requests", "1"])
        #expect(outcome.counts == [1, 1, 0, 0], "\(outcome.json)\(outcome.line)")
        #expect(outcome.line.contains("1 answered with what is no answer"), "\(outcome.line)")
    }

    @Test("traps apart: their failure is none")
    func traps() throws {
        let outcome = try load(
            [.answerAndClose([helloAndClose])],
            ["--seconds", "0.3", "--trap-path", "/trap", "--trap-every", "0.1", "--path", "/here"])
        #expect(outcome.counts.dropFirst() == [0, 0, 0], "\(outcome.json)\(outcome.line)")
        let sent = outcome.count("traps_sent") ?? 0
        #expect((1...2).contains(sent) && outcome.count("traps_answered") == sent, "\(outcome.json)")
        #expect(outcome.requests.count { $0 == "GET /trap HTTP/1.1" } == sent)
        #expect(outcome.requests.count { $0 == "GET /here HTTP/1.1" } == outcome.count("requests"))
    }

    @Test("a server that is not there as refused, without trying for ever")
    func refused() throws {
        let server = try ScriptedServer([.close])
        server.stop()
        let running = try Running(
            builtProgram("forkbench"), ["load", server.address, "--connections", "2", "--seconds", "0.2"], deadline: 60)
        #expect(try running.wait() == 1)
        #expect(running.output.contains(" refused)"), "\(running.output)")
        // Each of two connections at most every 10 ms.
        let requests = Int(running.output.prefix { $0.isNumber }) ?? 0
        #expect((2...42).contains(requests), "\(running.output)")
    }

    @Test(
        "only on this machine, and refuses wrong usage",
        arguments: [["192.0.2.1:80"], ["127.0.0.1"], ["127.0.0.1:0"], ["127.0.0.1:80", "--path", "x"]])
    func usage(_ arguments: [String]) throws {
        let running = try Running(builtProgram("forkbench"), ["load"] + arguments, deadline: 60)
        #expect(try running.wait() == 64)
    }
}
