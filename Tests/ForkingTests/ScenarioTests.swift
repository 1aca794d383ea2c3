// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

// Suites that are scenarios only: each has its title in Tests/Scenarios, where it is written. Those of other groups are
// run by the suites that they belong to.

@Suite("Scenarios")
struct ScenarioListTests {
    @Test("each group that is written is on the list, and one test runs it")
    func complete() throws {
        let tests = "\(#filePath)".split(separator: "/").dropLast(2).map { "/" + $0 }.joined()
        func found(_ group: Regex<(Substring, Substring)>, in folder: String) -> [String] {
            let sources = entries(of: folder).compactMap { contents(of: "\(folder)/\($0)") }
            return sources.flatMap { $0.matches(of: group).map { String($0.1) } }
        }
        let listed = Set(try Scenario.all.get().map(\.group))
        let written = found(/= Group\(\s*"([a-z-]+)"/, in: tests + "/Scenarios")
        #expect(written.filter { !listed.contains($0) } == [], "missing in Tests/Scenarios/main.swift, or empty")
        let run = found(/Scenario\.of\("([a-z-]+)"/, in: tests + "/ForkingTests")
        #expect(listed.filter { group in run.count { $0 == group } != 1 } == [], "run by no test, or by two")
    }
}

struct ChildTableReapingTests {
    @Test("ChildTable: reaping", arguments: try Scenario.of("table-reaping"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ChildTableForeignTests {
    @Test("ChildTable: children of others, others who wait", arguments: try Scenario.of("table-foreign"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ChildTableLimitTests {
    @Test("ChildTable: limit", arguments: try Scenario.of("table-limit"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ChildTableHostTests {
    @Test("ChildTable: the process around it", arguments: try Scenario.of("table-host"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ChildTableTimeTests {
    @Test("ChildTable: time", arguments: try Scenario.of("table-time"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ChildTableLoopTests {
    @Test("ChildTable: in a loop", arguments: try Scenario.of("table-loop"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ChildTableChildTests {
    @Test("ChildTable: the child", arguments: try Scenario.of("table-child"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ChildTableDispatchTests {
    @Test("ChildTable: a Task in a child", arguments: try Scenario.of("table-dispatch"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ChildTableMarkTests {
    @Test("ChildTable: death marks", arguments: try Scenario.of("table-mark"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ChildTableProgramTests {
    @Test("ChildTable: programs", arguments: try Scenario.of("table-program"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ChildTableContainmentTests {
    @Test("ChildTable: what children leave behind", arguments: try Scenario.of("table-containment"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }

    @Test(
        "ChildTable: what children leave behind, as root", .needsRoot,
        arguments: try Scenario.of("table-containment-as-root"))
    func scenarioAsRoot(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ChildTableTraceTests {
    @Test(
        "ChildTable: what counts as a child's end, and nobody waiting for one",
        arguments: try Scenario.of("table-trace"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }

    @Test(
        "ChildTable: what counts as a child's end, and nobody waiting for one, as root", .needsRoot,
        arguments: try Scenario.of("table-trace-as-root"))
    func scenarioAsRoot(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ResourceLimitTests {
    @Test("Resource limits of children of each kind", arguments: try Scenario.of("resource-limit"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ZygoteCallTests {
    @Test("Zygote: calls", arguments: try Scenario.of("zygote-call"), [0, 2])
    func scenario(_ scenario: Scenario, warmChildren: Int) throws { try scenario.pass(warmChildren: warmChildren) }
}

struct ZygoteQueueTests {
    @Test("Zygote: more calls than places", arguments: try Scenario.of("zygote-queue"), [0, 2])
    func scenario(_ scenario: Scenario, warmChildren: Int) throws { try scenario.pass(warmChildren: warmChildren) }
}

struct ZygoteChildTests {
    @Test("Zygote: its children, and its start", arguments: try Scenario.of("zygote-child"), [0, 2])
    func scenario(_ scenario: Scenario, warmChildren: Int) throws { try scenario.pass(warmChildren: warmChildren) }
}

struct ZygoteContextTests {
    @Test("Zygote: what goes with a call beside its bytes", arguments: try Scenario.of("zygote-context"), [0, 2])
    func scenario(_ scenario: Scenario, warmChildren: Int) throws { try scenario.pass(warmChildren: warmChildren) }
}

struct ZygoteLimitTests {
    @Test("Zygote: what a call is limited to", arguments: try Scenario.of("zygote-limit"), [0, 2])
    func scenario(_ scenario: Scenario, warmChildren: Int) throws { try scenario.pass(warmChildren: warmChildren) }
}

struct ZygoteHostileTests {
    @Test("Zygote: a child that was taken over", arguments: try Scenario.of("zygote-hostile"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ZygoteLifeTests {
    @Test("Zygote: its end, and its host's", arguments: try Scenario.of("zygote-life"), [0, 2])
    func scenario(_ scenario: Scenario, warmChildren: Int) throws { try scenario.pass(warmChildren: warmChildren) }
}

struct ZygoteWarmTests {
    @Test("Zygote: children forked ahead of calls", arguments: try Scenario.of("zygote-warm"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ZygoteIsolateTests {
    @Test("Zygote: isolates", arguments: try Scenario.of("zygote-isolate"), [0, 2])
    func scenario(_ scenario: Scenario, warmChildren: Int) throws { try scenario.pass(warmChildren: warmChildren) }
}

struct ZygoteIsolateLifeTests {
    @Test("Zygote: how isolates end", arguments: try Scenario.of("zygote-isolate-life"), [0, 2])
    func scenario(_ scenario: Scenario, warmChildren: Int) throws { try scenario.pass(warmChildren: warmChildren) }

    @Test(
        "Zygote: what an isolate's calls cost, with strace", .needsTracing,
        arguments: try Scenario.of("zygote-isolate-with-tracing"))
    func scenarioWithTracing(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ZygoteWatchTests {
    @Test("Zygote: as its host's threads see it", arguments: try Scenario.of("zygote-watch"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct ZygoteHazardTests {
    @Test("Zygote: what it has to survive", arguments: try Scenario.of("zygote-hazard"), [0, 2])
    func scenario(_ scenario: Scenario, warmChildren: Int) throws { try scenario.pass(warmChildren: warmChildren) }

    @Test(
        "Zygote: what it has to survive, with strace", .needsTracing,
        arguments: try Scenario.of("zygote-hazard-with-tracing"))
    func scenarioWithTracing(_ scenario: Scenario) throws { try scenario.pass() }
}

struct LingerTests {
    @Test("An answer arrives whole, though its client goes on sending", arguments: try Scenario.of("linger"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct RightsTests {
    @Test("Descriptors attached to what is sent on Unix sockets", arguments: try Scenario.of("rights"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct SocketScenarioTests {
    @Test("Sockets and processes", arguments: try Scenario.of("socket"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}

struct StartTests {
    @Test("What a program was started with, and what it asks for", arguments: try Scenario.of("start"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}
