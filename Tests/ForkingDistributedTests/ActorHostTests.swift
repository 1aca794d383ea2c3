// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

/// Actors in processes of their own, called by a host that is a process of its own: `actorhost`. Afterwards nothing may
/// be alive.
@Suite("Distributed actors in isolates", .serialized)
struct ActorHostTests {
    @Test("each has a process and a state of its own")
    func state() throws { try pass("state") }

    @Test("arguments, results and errors of all shapes arrive; generic methods, properties, bytes, descriptors")
    func shapes() throws { try pass("shapes") }

    @Test("actors are resolved, compared, resigned, and returned")
    func identity() throws { try pass("identity") }

    @Test("children call actors of the host, and of one another")
    func callbacks() throws { try pass("callbacks") }

    @Test("a trap, a kill and an exit are errors for the caller, and an end that can be awaited")
    func ends() throws { try pass("ends") }

    @Test("an actor is made anew after its end, if asked for")
    func restarts() throws { try pass("restarts") }

    @Test("a deadline cancels the method, and ends one that goes on")
    func deadlines() throws { try pass("deadlines") }

    @Test("a caller's cancellation reaches the method")
    func cancellation() throws { try pass("cancellation") }

    @Test("a zygote that is killed costs the calls in flight")
    func zygoteKilled() throws { try pass("zygote-killed") }

    @Test("many calls from many tasks, one in ten failing")
    func many() throws { try pass("many", 800) }

    @Test("thousands of calls, one in ten failing, while zygotes are killed: each is told as what it was")
    func storm() throws { try pass("storm", 4000) }

    private func pass(_ mode: String, _ count: Int = 1) throws {
        let running = try Running(builtProgram("actorhost"), [mode, "\(count)"], deadline: 240)
        let status = try running.wait()
        #expect(status == 0, "\(mode): \(running.errors.suffix(2000)) \(running.output.suffix(2000))")
        // Another thread may report an event later.
        #expect(running.output.split(separator: "\n").contains("ok"))
        try running.expectNothingAlive()
    }
}
