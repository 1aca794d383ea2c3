// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkbench zygote") struct ZygoteTests {
    private func zygote(_ arguments: [String]) throws -> Running {
        try Running(builtProgram("forkbench"), ["zygote", "--quick", "--repetitions", "1"] + arguments, deadline: 120)
    }

    /// A field's text, of a line of JSON without lists or objects in it.
    private func field(_ key: String, of line: Substring) -> String? {
        let fields = line.dropFirst().dropLast().split(separator: ",").map { $0.split(separator: ":") }
        return fields.first { $0.first == "\"\(key)\"" }.map { String($0[1].filter { $0 != "\"" }) }
    }

    @Test("measures each method in each host, and says so in JSON", .needs("cc", package: "gcc"))
    func measures() throws {
        let directory = try TemporaryDirectory()
        let running = try zygote(["--calls", "20", "--seconds", "60", "--json", "\(directory.path)/json"])
        #expect(try running.wait() == 0, "\(running.errors)")
        try running.expectNothingAlive()
        let lines = (contents(of: "\(directory.path)/json") ?? "").split(separator: "\n")
        let kinds = lines.map { line in ["heap_mb", "method"].map { field($0, of: line) ?? "" } }
        let methods = [
            "zygote", "warm", "isolate", "distributed", "distributed-json", "fork", "posix_spawn", "swift-subprocess",
        ]
        #expect(kinds == ["0", "100"].flatMap { heap in methods.map { [heap, $0] } })
        for line in lines {
            let texts = ["benchmark", "work", "host_threads", "repetitions", "calls", "hangs", "failed"]
                .map { field($0, of: line) }
            #expect(texts == ["zygote", "echo", "0", "1", "23", "0", "0"], "\(line)")
            for key in ["p50_us", "p50_us_p10", "p50_us_p90", "p99_us", "calls_per_second", "cpu_us"] {
                #expect((field(key, of: line).flatMap { Double($0) } ?? 0) > 0, "\(key): \(line)")
            }
            #expect(running.output.contains(field("method", of: line)!))
        }
    }

    @Test("callers take turns of their own, with pauses between their calls")
    func callers() throws {
        let running = try zygote([
            "--methods", "zygote,warm", "--heap", "0", "--callers", "1,4", "--pause", "0,3", "--calls", "40",
            "--seconds", "60", "--json", "-",
        ])
        #expect(try running.wait() == 0, "\(running.errors)")
        try running.expectNothingAlive()
        let lines = running.output.split(separator: "\n").filter { $0.hasPrefix("{") }
        #expect(lines.count == 8)
        for line in lines {
            let callers = try #require(field("callers", of: line).flatMap { Int($0) })
            #expect(field("calls", of: line) == "\(40 + 3 * callers)" && field("hangs", of: line) == "0", "\(line)")
            let rate = try #require(field("calls_per_second", of: line).flatMap { Double($0) })
            if field("pause_ms", of: line) == "3.00" { #expect(rate <= Double(callers) * 334, "\(line)") }
        }
    }

    @Test("does all work in both hosts", arguments: ["0", "4"])
    func work(_ threads: String) throws {
        let running = try zygote([
            "--methods", "zygote,posix_spawn,swift-subprocess", "--work", "allocate,task,foundation", "--heap", "1",
            "--host-threads", threads, "--calls", "3", "--seconds", "30", "--json", "-",
        ])
        #expect(try running.wait() == 0, "\(running.errors)")
        try running.expectNothingAlive()
        let lines = running.output.split(separator: "\n").filter { $0.hasPrefix("{") }
        #expect(lines.count == 9)
        for line in lines { #expect(["calls", "hangs"].map { field($0, of: line) } == ["6", "0"], "\(line)") }
    }

    private let hanging = [
        "--methods", "fork", "--work", "task", "--heap", "0", "--host-threads", "4", "--calls", "1", "--json", "-",
    ]

    @Test("counts what hangs, and ends it")
    func hangs() throws {
        let running = try zygote(hanging + ["--seconds", "0.1"])
        #expect(try running.wait() == 0, "\(running.errors)")
        try running.expectNothingAlive()
        let line = try #require(running.output.split(separator: "\n").first { $0.hasPrefix("{") })
        #expect(["calls", "hangs"].map { field($0, of: line) } == ["1", "1"], "\(line)")
        #expect(field("p50_us", of: line) == nil)
    }

    @Test("leaves nothing behind when it is stopped or killed", arguments: [SIGTERM, SIGKILL])
    func killed(_ signal: Int32) throws {
        let running = try zygote(hanging + ["--seconds", "60"])
        // The host, and a child that hangs.
        try eventually(within: 60, "nothing hangs: \(running.errors)") {
            running.descendants.contains { child in running.descendants.contains(Process(child)?.parent ?? 0) }
        }
        running.send(signal)
        #expect(try running.wait() == -signal)
        try running.expectNothingAlive()
    }

    @Test("takes no wrong answer for one, nor an end", arguments: ["true", "yes"])
    func failures(_ program: String) throws {
        let running = try Running(
            builtProgram("forkbench-host"),
            ["posix_spawn", "echo", "0", "0", "100", "60", "0", "1", "/usr/bin/\(program)"], deadline: 60)
        #expect(try running.wait() == 0)
        #expect(running.output.split(separator: " ").prefix(3) == ["10", "0", "10"], "\(running.output)")
        try running.expectNothingAlive()
    }

    @Test(
        "refuses wrong usage in one line",
        arguments: [
            ["--heap", "x"], ["--heap", ""], ["--methods", "vfork"], ["--work", "echo,nothing"],
            ["--host-threads", "65"], ["--seconds", "0"], ["--calls", "0"], ["--json", "/nowhere/file"], ["more"],
        ])
    func usage(_ arguments: [String]) throws {
        let running = try zygote(arguments)
        #expect(try running.wait() == 64)
        #expect(running.errors.hasPrefix("forkbench: ") && running.errors.split(separator: "\n").count == 1)
        #expect(running.output == "")
    }

    @Test("says what the machine has not")
    func shortage() throws {
        let running = try zygote(["--heap", "1048576"])
        #expect(try running.wait() == 71)
        #expect(running.errors.contains("it needs about") && running.errors.split(separator: "\n").count == 1)
    }
}
