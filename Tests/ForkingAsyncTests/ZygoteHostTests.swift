// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

/// What a host with threads asks of its zygote, in a process of its own: `zygotehost`. Afterwards nothing may be alive.
@Suite("A zygote and its host with threads", .serialized)
struct ZygoteHostTests {
    @Test("calls are awaited, and cancelled with their task")
    func asynchronous() throws { try pass("async") }

    @Test("children of a busy host's zygote use the allocator, Foundation and tasks: none hangs, none answers wrong")
    func busy() throws { try pass("busy", 400) }

    @Test("thousands of calls leave host and zygote with what they had")
    func calm() throws { try pass("calm", 400) }

    @Test("an async handler with four tasks, from eight threads")
    func later() throws { try pass("later", 400) }

    @Test("limits do not make tasks slower")
    func limits() throws { try pass("limits", 20) }

    @Test("more calls than places are awaited, without descriptors")
    func many() throws { try pass("many", 800) }

    @Test("traps, kills, exits, errors, deadlines and cancellations are told as what they were")
    func mix() throws { try pass("mix", 350) }

    @Test("all tasks of an async handler run on its child's own thread, and block it if they block")
    func ownThread() throws { try pass("own-thread") }

    @Test("a zygote that is killed costs the calls in flight, and has a successor")
    func killed() throws { try pass("zygote-killed", 2) }

    @Test("isolates are called by tasks: in order, with values, several calls at once; and end as they are told to")
    func isolates() throws {
        for mode in ["isolate", "isolate-values", "isolate-concurrent", "isolate-ends"] { try pass(mode) }
    }

    @Test("thousands of calls, one in ten failing, while zygotes are killed: each is told as what it was")
    func storm() throws { try pass("storm", 1000) }

    @Test("thousands of isolates' calls, one in ten failing, while zygotes are killed: each is told as what it was")
    func isolateStorm() throws { try pass("storm-isolates", 4000) }

    private func pass(_ mode: String, _ count: Int = 1) throws {
        let running = try Running(builtProgram("zygotehost"), [mode, "\(count)"], deadline: 240)
        let status = try running.wait()
        #expect(status == 0, "\(mode): \(running.errors.suffix(2000)) \(running.output.suffix(2000))")
        // Another thread may report an event later.
        #expect(running.output.split(separator: "\n").contains("ok"))
        try running.expectNothingAlive()
    }
}
