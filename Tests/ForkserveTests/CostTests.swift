// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// What a connection costs, in what can be counted exactly; docs/DESIGN.md says what each is for.
@Suite("What a connection costs forkserve")
struct CostTests {
    private func serve(_ clients: Int, at address: String) throws {
        for number in 0..<clients {
            let client = try Client(address)
            try client.echo("client \(number)")
            client.finishSending()
            try expect(try client.receive() == "", "more than was sent")
        }
    }

    /// How often each system call was begun, in what `strace -f` has written.
    private struct Calls: CustomStringConvertible {
        var counts: [Substring: Int] = [:]
        var total: Int { counts.values.reduce(0, +) }

        mutating func note(_ name: Substring) { counts[name, default: 0] += 1 }

        var description: String {
            counts.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.map { "\($0.key) \($0.value)" }
                .joined(separator: ", ")
        }
    }

    private func calls(in trace: Substring, of parent: pid_t) -> (parent: Calls, children: Calls) {
        var (ofParent, ofChildren) = (Calls(), Calls())
        for line in trace.split(separator: "\n") {
            let parts = line.split(separator: " ", maxSplits: 1)
            guard parts.count == 2, let pid = pid_t(parts[0]), let end = parts[1].firstIndex(of: "(") else { continue }
            let name = parts[1][..<end].drop { $0 == " " }
            // Neither signals and ends, nor what one call still had to say when another process came in between.
            guard name.allSatisfy({ $0.isLetter || $0.isNumber || $0 == "_" }) else { continue }
            if pid == parent { ofParent.note(name) } else { ofChildren.note(name) }
        }
        return (ofParent, ofChildren)
    }

    /// Calls whose number hangs on what comes together: a turn of the loop can find a client and an end, or a child not
    /// quite ended.
    private static let waiting: Set<Substring> = ["ppoll", "read", "wait4"]

    @Test("system calls", .needsTracing) func systemCalls() throws {
        let clients = 1000
        let (parent, waiting, child) = (5.1, 4.4, 19.5)  // at most, for each
        let directory = try TemporaryDirectory()
        let file = directory.path + "/trace"
        let script = "\(closingInherited); exec strace -f -qq -o \(file) \"$0\" echo 127.0.0.1:0"
        // As users run it: with what our other tests say in this variable children would have no crash handlers to
        // reset.
        let strace = try Running("bash", ["-c", script, forkserveProgram], environment: ["SWIFT_BACKTRACE": ""])
        let address = try listeningAddress(of: strace)
        let server = try #require(children(of: strace.pid).first)
        func settle() throws {
            try eventually("children are left") { children(of: server).isEmpty }
        }
        try serve(50, at: address)
        try settle()
        let before = (contents(of: file) ?? "").utf8.count
        try serve(clients, at: address)
        try settle()
        let trace = (contents(of: file) ?? "").utf8.dropFirst(before)
        let counted = calls(in: Substring(trace), of: server)
        let waits = Self.waiting.reduce(0) { $0 + counted.parent.counts[$1, default: 0] }
        print("system calls: parent \(counted.parent); children \(counted.children)")
        #expect(Double(counted.parent.total - waits) / Double(clients) <= parent, "\(counted.parent)")
        #expect(Double(waits) / Double(clients) <= waiting, "\(counted.parent)")
        #expect(Double(counted.children.total) / Double(clients) <= child, "\(counted.children)")
        // To see that it was counted at all.
        #expect(counted.parent.counts["accept4"] == clients && counted.children.total > 10 * clients)
        kill(server, SIGTERM)
        #expect(try strace.wait() == 0, "\(strace.errors)")
        try strace.expectNothingAlive()
    }

    @Test(
        "no allocation from accept to fork", .needs("cc", package: "gcc"),
        arguments: ["127.0.0.1:0", "unix:@forkserve-allocations-\(getpid())"])
    func allocations(asked: String) throws {
        let (warmUp, clients) = (50, 200)
        let directory = try TemporaryDirectory()
        let (library, log) = (directory.path + "/allocations.so", directory.path + "/log")
        let tests = "\(#filePath)".split(separator: "/").dropLast(2).map { "/" + $0 }.joined()
        try run("cc", ["-shared", "-fPIC", "-O1", "-o", library, tests + "/Preloaded/allocations.c"])
        let (server, address) = try forkserve(
            ["echo", asked], environment: ["LD_PRELOAD": library, "ALLOCATIONS": log])
        try serve(warmUp, at: address)
        let before = (contents(of: log) ?? "").utf8.count
        try serve(clients, at: address)
        try stop(server)
        let all = contents(of: log) ?? ""
        // Once, as it settles, the server rehearses, and that allocates: so it is seen that allocations are.
        #expect(all.split(separator: "\n").contains { (Int($0) ?? 0) > 0 })
        let told = Substring(all.utf8.dropFirst(before))
        let numbers = told.split(separator: "\n").compactMap { Int($0) }
        #expect(numbers.count == clients && numbers.allSatisfy { $0 == 0 }, "\(told)")
    }
}
