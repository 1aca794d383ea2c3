// SPDX-License-Identifier: Apache-2.0
//
// Calls of a zygote: what they give, and what becomes of them.

import Forking
import Glibc
import SystemPackage
import TestSupport

let zygoteScenarios: [String: @Sendable () throws -> Void] = [
    "zygote-echo": echo,
    "zygote-failures": failures,
    "zygote-restart": restart,
]

func startZygote(_ change: (inout Zygote.Configuration) -> Void = { _ in }) throws -> Zygote {
    var configuration = Zygote.Configuration()
    change(&configuration)
    return try Zygote.start(configuration: configuration) { handlers in
        handlers.answer("echo") { Zygote.Reply($0.bytes, descriptors: $0.descriptors) }
        handlers.answer("trap") { Zygote.Reply([$0.bytes[$0.bytes.count]]) }
        handlers.answer("throw") { _ in throw Failure("as asked") }
        handlers.answer("exit") { exit(Int32($0.bytes[0])) }
        handlers.answer("hang") { _ in while true { pause() } }
        handlers.answer("pid") { _ in Zygote.Reply(Array("\(getpid()) \(getppid())".utf8)) }
        handlers.serve("lines") { connection, request in
            try connection.write(request.bytes)
            while let line = try connection.readLine() { try connection.write(line) }
        }
    }
}

/// What a call fails with.
func failure(_ body: () throws -> Void, line: Int = #line) throws -> ZygoteError {
    do { try body() } catch let error as ZygoteError { return error }
    throw Failure("line \(line): no failure")
}

private func echo() throws {
    let zygote = try startZygote()
    for count in [0, 1, 1000, 32_768, 32_769, 1_000_000] {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let reply = try zygote.runAndWait("echo", bytes)
        try expect(reply.bytes == bytes, "\(count) bytes did not come back")
        try expect(reply.descriptors.isEmpty, "a descriptor came")
    }
    let begun = now()
    for _ in 0..<1000 { _ = try zygote.runAndWait("echo", [1, 2, 3]) }
    print("1000 calls in \(now() - begun) s; \(zygote.statistics)")
    let ended = zygote.shutDownAndWait()
    try expect(ended, "it did not end")
}

private func failures() throws {
    let zygote = try startZygote()
    func check(
        _ name: String, _ bytes: [UInt8] = [], deadline: Duration? = nil, _ wanted: ZygoteError, line: Int = #line
    ) throws {
        let got = try failure({ _ = try zygote.runAndWait(name, bytes, deadline: deadline) }, line: line)
        try expect(got == wanted, "\(got), not \(wanted)", line: line)
    }
    try check("trap", [], .ended(.killed(.illegalInstruction, dumpedCore: false)))
    try check("throw", [], .threw(type: "Failure", description: "as asked"))
    try check("exit", [7], .ended(.exited(code: 7)))
    try check("hang", [], deadline: .milliseconds(50), .deadline(.milliseconds(50)))
    try check("nothing", [], .noHandler("nothing", known: zygote.names))
    let call = try zygote.begin("hang")
    call.cancel()
    try expect(failure { _ = try call.wait() } == .cancelled, "not cancelled")
    let ended = zygote.shutDownAndWait()
    try expect(ended, "it did not end")
}

private func restart() throws {
    let zygote = try startZygote()
    usleep(1_100_000)
    for _ in 0..<3 {
        let pid = zygote.processID!
        let call = try zygote.begin("hang")
        Glibc.kill(pid, SIGKILL)
        try expect(failure { _ = try call.wait() } == .lost(nextStart: nil), "not lost")
        let begun = now()
        var reply: Zygote.Reply?
        while reply == nil {
            do { reply = try zygote.runAndWait("pid") } catch { print(error); usleep(10_000) }
        }
        print("again after \(now() - begun) s", String(decoding: reply!.bytes, as: UTF8.self), zygote.processID!)
        try expect(zygote.processID! != pid, "the old one")
    }
    let ended = zygote.shutDownAndWait()
    try expect(ended, "it did not end")
}
