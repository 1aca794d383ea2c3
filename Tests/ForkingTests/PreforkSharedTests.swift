// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("PreforkServer: what a worker does to what it shares")
struct PreforkSharedTests {
    // MARK: The parent's end

    @Test("a worker that gave up root dies with its parent", .needsRoot)
    func withoutRights() throws {
        let pool = try Pool("workers=2").serving()
        let client = try pool.client()
        #expect(try client.ask("give-up-root") == "true")
        pool.signal(SIGKILL)
        #expect(try client.receiveAll() == "")
        try expectGone(pool)
    }

    @Test("one that the kernel does not tell of it drains, and does not turn in circles", .needsRoot)
    func untold() throws {
        let pool = try Pool("workers=2").serving()
        let (leaving, staying) = try (pool.client(), pool.client())
        #expect(try leaving.ask("outlive-parent") == "true" && staying.ask("outlive-parent") == "true")
        let pid = try #require(pid_t(staying.ask("pid")))
        let idle = try #require(pid_t(leaving.ask("pid")))
        leaving.finishSending()
        #expect(try leaving.receiveAll() == "")
        pool.signal(SIGKILL)
        // Who waits for clients sees it, and ends; who serves one serves it to its end.
        try eventually("\(idle) goes on") { Process(idle).map(\.isZombie) ?? true }
        try staying.echo("still served")
        #expect(processorTime(of: pid) < 0.5)
        staying.finishSending()
        #expect(try staying.receiveAll() == "")
        try expectGone(pool)
    }

    @Test("nor does one whose clients never let it wait", .needsRoot)
    func untoldAndBusy() throws {
        let pool = try Pool("workers=1").serving()
        let first = try pool.client()
        #expect(try first.ask("outlive-parent") == "true")
        func waiting(_ count: Int) throws -> [Client] {
            try (0..<count).map { _ in
                let client = try pool.client()
                try client.send("hello\n")
                client.finishSending()
                return client
            }
        }
        let before = try waiting(50)
        let holding = try pool.client()
        let after = try waiting(400)
        first.finishSending()
        // By now it looks for the next client instead of waiting for one.
        for client in before { #expect(try client.receiveAll() == "hello\n") }
        pool.signal(SIGKILL)
        #expect(try pool.running.wait() == -SIGKILL)
        holding.finishSending()
        let served = after.count { (try? $0.receiveAll()) == "hello\n" }
        #expect(served < 300)
        try expectGone(pool)
    }

    /// Nothing is left, and the address is free.
    private func expectGone(_ pool: Pool) throws {
        #expect(try pool.running.wait() == -SIGKILL)
        try pool.running.expectNothingAlive(within: 20)
        let again = try Pool("workers=1", "address=\(pool.address)").serving()
        try again.client().echo("hello")
        try again.stop()
    }

    // MARK: Waking the parent

    @Test("one that wakes its parent all the time costs it little, and the others are heard")
    func ringing() throws {
        let pool = try Pool("workers=2").serving()
        let client = try pool.client()
        try client.echo("hello")
        let before = processorTime(of: pool.running.pid)
        try client.send("ring 4\n")
        pool.signal(SIGTTIN)
        try pool.waitForReady(3)
        #expect(try client.receive() == "1\n", "more than its own to ring by")
        #expect(processorTime(of: pool.running.pid) - before < 1)
        try pool.stop()
    }

    @Test("one that takes what wakes its parent is not heard itself, and the others are")
    func listening() throws {
        let pool = try Pool("workers=2", "spawn=120").serving()
        let client = try pool.client()
        try client.echo("hello")
        try client.send("listen-to-bells 10\n")
        let began = now()
        for count in 3...6 {
            pool.signal(SIGTTIN)
            try pool.waitForReady(count)
        }
        #expect(now() - began < 10)
        client.finishSending()
        try pool.stop()
    }

    // MARK: Listeners

    @Test("a listener that one shuts down is listened on again", arguments: [1, 3])
    func shutDown(workers: Int) throws {
        let pool = try Pool("workers=\(workers)").serving()
        for _ in 0..<3 {
            let client = try pool.client()
            #expect(try client.ask("shut-down") == "[0]")
            client.finishSending()
            #expect(try client.receiveAll() == "")
            try pool.event(
                "the listener on \(pool.address) was shut down by a process that shares it, and listens again")
            try pool.client().echo("served on")
        }
        #expect(pool.fewestReady == workers)
        try pool.stop()
        #expect(!pool.running.output.contains("failed at their start"))
    }

    @Test("a Unix socket, which cannot be, is the server's end, and an error")
    func unixShutDown() throws {
        let directory = try TemporaryDirectory()
        let pool = try Pool("workers=2", "address=unix:\(directory.path)/socket").serving()
        let client = try pool.client()
        #expect(try client.ask("shut-down") == "[0]")
        client.finishSending()
        try pool.event("stopping: draining")
        #expect(try pool.running.wait() == 1)
        #expect(pool.running.errors.contains("another process has shut down the listening socket on \(pool.address)"))
        try pool.running.expectNothingAlive()
        #expect(access(directory.path + "/socket", F_OK) != 0)
    }

    // MARK: Reading

    @Test("all reads together can have a limit, however often a byte comes")
    func readLimit() throws {
        let pool = try Pool("workers=1", "io=30").serving()
        let client = try pool.client()
        try client.echo("read-limit 0.5")
        let began = now()
        while now() - began < 20, !client.hasAnswer {
            try? client.send("x")
            usleep(50_000)  // a client that sends a byte now and then
        }
        #expect(try client.receiveAll() == "")
        #expect(now() - began >= 0.5 && now() - began < 20)
        try pool.stop()
    }
}
