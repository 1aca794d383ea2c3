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

    @Test("texts and bytes need no codec; an actor that was given no other is sent nothing but its calls")
    func uncoded() throws { try pass("uncoded") }

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

    @Test("an initialiser that throws makes no actor; a local actor's end resigns its identifier")
    func lifetimes() throws { try pass("lifetimes") }

    @Test("a reference keeps its system; its own end is nothing to the actor, the system's ends the processes")
    func references() throws { try pass("references") }

    @Test("references to one actor are equal on either side, hashed alike, and coded")
    func equality() throws { try pass("equality") }

    @Test("actors are passed in structures, arrays and dictionaries, and are themselves where they live")
    func teams() throws { try pass("teams") }

    @Test("calls within a process, and of an actor's own methods, pass arguments as they are")
    func localCalls() throws { try pass("local-calls") }

    @Test("arguments and results are released in host and child")
    func released() throws { try pass("released") }

    @Test("a bad target, bad arguments, and what cannot be encoded or decoded are errors for the caller only")
    func badCalls() throws { try pass("bad-calls") }

    @Test("overloads, labels, extensions and properties are told apart")
    func overloads() throws { try pass("overloads") }

    @Test("a protocol's methods reach each of its implementations, through generic functions and existentials, too")
    func protocols() throws { try pass("protocols") }

    @Test("actors may be generic, nested, and private, also in a zygote that follows another")
    func generics() throws { try pass("generics") }

    @Test("a protocol that is @Resolvable is all that a caller needs to know, wherever the actor is")
    func resolvable() throws { try pass("resolvable") }

    @Test("an actor's methods run on its executor, in host and child")
    func executors() throws { try pass("executors") }

    @Test("task-local values are not passed to the child, nor left there")
    func surroundings() throws { try pass("surroundings") }

    private func pass(_ mode: String, _ count: Int = 1) throws {
        let running = try Running(builtProgram("actorhost"), [mode, "\(count)"], deadline: 240)
        let status = try running.wait()
        #expect(status == 0, "\(mode): \(running.errors.suffix(2000)) \(running.output.suffix(2000))")
        // Another thread may report an event later.
        #expect(running.output.split(separator: "\n").contains("ok"))
        try running.expectNothingAlive()
    }
}
