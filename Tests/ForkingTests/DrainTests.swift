// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("Clients that wait")
struct DrainTests {
    @Test("in the kernel's queue at a stop", arguments: try Scenario.of("drain"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }

    @Test("for a process", .needsRoot, arguments: try Scenario.of("drain-as-root"))
    func scenarioAsRoot(_ scenario: Scenario) throws { try scenario.pass() }

    /// So many wait while the pool's only worker is busy.
    private func crowd(_ setting: String, _ count: Int = 3) throws -> (Pool, busy: Client, waiting: [Client]) {
        let pool = try Pool("workers=1", "drain=50", setting, scenario: "prefork-many-descriptors").serving()
        let busy = try pool.client()
        try busy.echo("busy")
        let waiting = try (0..<count).map { _ in try pool.client() }
        for client in waiting {
            try client.send("hello\n")
            client.finishSending()
        }
        pool.signal(SIGTERM)
        try pool.event("stopping: draining")
        return (pool, busy, waiting)
    }

    @Test(
        "in the queue of a pool that stops are served by its workers, and then nobody is let in",
        arguments: ["address=127.0.0.1:0", "address=unix:@forking-crowd-\(getpid())", "body=accept"])
    func pool(_ setting: String) throws {
        let (pool, busy, waiting) = try crowd(setting)
        busy.finishSending()
        for client in waiting { #expect(try client.receiveAll() == "hello\n") }
        try pool.expectCleanEnd()
    }

    @Test("are served, also if they are more than there is room for where they are passed on")
    func manyOfPool() throws {
        let (pool, busy, waiting) = try crowd("address=127.0.0.1:0", 600)
        busy.finishSending()
        for client in waiting { #expect(try client.receiveAll() == "hello\n") }
        try pool.expectCleanEnd()
    }

    @Test("where nobody waits, a pool that stops takes nobody any more, though its worker is busy")
    func emptyQueue() throws {
        let pool = try Pool("workers=1", "drain=50").serving()
        let busy = try pool.client()
        try busy.echo("busy")
        pool.signal(SIGTERM)
        try pool.event("stopping: draining")
        try eventually("it still listens") { (try? pool.client()) == nil }
        try busy.echo("still here")
        busy.finishSending()
        try pool.expectCleanEnd()
    }

    @Test("whose turn has not come at the end of a pool's drain are sent away")
    func poolsEnd() throws {
        let pool = try Pool("workers=1", "drain=0.3").serving()
        let busy = try pool.client()
        try busy.echo("busy")
        let waiting = try pool.client()
        try waiting.send("hello\n")
        pool.signal(SIGTERM)
        #expect(try waiting.receiveAll() == "")
        #expect(try busy.receiveAll() == "")
        try pool.expectCleanEnd()
    }
}
