// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("PreforkServer: workers that fail")
struct PreforkCrashTests {
    @Test("a crash costs its own client only, and the worker is replaced at once", arguments: ["index", "segv"])
    func crash(cause: String) throws {
        let pool = try Pool("workers=2").serving()
        let (victim, neighbour) = try (pool.client(), pool.client())
        let pid = try victim.ask("pid")
        #expect(try neighbour.ask("pid") != pid)
        try victim.send("crash \(cause)\n")
        #expect(try victim.receiveAll() == "")
        try pool.event("worker \(pid)", "killed by SIG")
        try pool.waitForReady(2)
        try neighbour.echo("still here")
        try pool.client().echo("so is another")
        #expect(!pool.running.output.contains("before it had served"))
        neighbour.finishSending()
        try pool.stop()
    }

    @Test("SIGKILL to a worker: the same")
    func killed() throws {
        let pool = try Pool("workers=2").serving()
        let (victim, neighbour) = try (pool.client(), pool.client())
        let pid = try #require(pid_t(victim.ask("pid")))
        try neighbour.echo("hello")
        kill(pid, SIGKILL)
        #expect(try victim.receiveAll() == "")
        try pool.event("worker \(pid): killed by SIGKILL")
        try pool.waitForReady(2)
        try neighbour.echo("still here")
        try pool.client().echo("so is another")
        neighbour.finishSending()
        try pool.stop()
    }

    @Test("one that has ended, but is held by a tracer, is told of and replaced, and reaped once let go")
    func held() throws {
        let pool = try Pool("workers=2").serving()
        let client = try pool.client()
        let pid = try #require(pid_t(client.ask("pid")))
        let tracer = try #require(pid_t(client.ask("be-held")))
        defer { kill(tracer, SIGKILL) }
        kill(pid, SIGKILL)
        // The kernel tells the tracer alone; it is found as another one's end makes the pool look.
        kill(try #require(pool.ready.first { $0 != pid }), SIGKILL)
        try pool.event("worker \(pid): has ended, but cannot be reaped, because a debugger or tracer holds it")
        try pool.waitForReady(2)
        kill(tracer, SIGKILL)
        try pool.event("worker \(pid): killed by SIGKILL")
        try pool.client().echo("served on")
        try pool.stop()
    }

    @Test("one that dies before it has served makes the next one wait, and no other")
    func backoff() throws {
        let pool = try Pool("workers=2").serving()
        let client = try pool.client()
        let busy = try #require(pid_t(client.ask("pid")))
        var waits: [Double] = []
        for _ in 0..<4 {
            let idle = try #require(pool.ready.first { $0 != busy })
            kill(idle, SIGKILL)
            try pool.event("worker \(idle): killed by SIGKILL", "before it had served")
            let began = now()
            try client.echo("served meanwhile")
            try pool.event("forked")
            waits.append(now() - began)
            try pool.waitForReady(2)
        }
        // 0.1 s, then twice as long each time, give or take a fifth.
        for (index, wait) in waits.enumerated() {
            #expect(wait > 0.07 * Double(1 << index) && wait < 0.12 * Double(1 << index) + 5, "\(waits)")
        }
        // One that serves ends the row.
        let newcomer = try pool.client()
        let served = try #require(pid_t(newcomer.ask("pid")))
        kill(served, SIGKILL)
        try pool.event("worker \(served): killed by SIGKILL")
        try pool.waitForReady(2)
        let idle = try #require(pool.ready.first { $0 != busy })
        kill(idle, SIGKILL)
        try pool.event("worker \(idle)", "before it had served")
        try pool.event("forked")
        client.finishSending()
        try pool.stop()
        #expect(!pool.running.output.contains("in a row"))  // as the fifth would be
    }

    @Test("failures are not in a row if a worker proved good in between, whenever that was looked at")
    func notInARow() throws {
        let pool = try Pool("workers=1", "gives-up=2").serving()
        for _ in 0..<4 {
            let first = try #require(pool.ready.first)
            kill(first, SIGKILL)
            try pool.event("worker \(first)", "before it had served")
            try pool.waitForReady(1)
            let second = try #require(pool.ready.first)
            try pool.client().echo("hello")
            kill(second, SIGKILL)
            try pool.event("worker \(second): killed by SIGKILL")
            try pool.waitForReady(1)
        }
        try pool.stop()
    }

    @Test(
        "a crash loop is told, and given up only if so wished",
        arguments: ["returns", "ready-returns", "term", "term-stays"])
    func crashLoop(body: String) throws {
        let pool = try Pool("workers=2", "body=\(body)", "gives-up=8", "drain=1", "kill=1")
        try pool.event("workers in a row failed at their start; the next one starts after 0.")
        #expect(try pool.running.wait() == 1)
        #expect(pool.running.errors.contains("workers in a row failed at their start"))
        try pool.running.expectNothingAlive()
        let forks = pool.running.output.split(separator: "\n").count { $0.contains("forked") }
        #expect(forks <= 10, "\(pool.running.output)\(pool.running.errors)")
    }

    @Test("one that never says that it is ready is killed, and counts as failed")
    func neverReady() throws {
        let pool = try Pool("workers=1", "body=never", "spawn=0.3", "gives-up=2", "drain=0.1", "kill=0.1")
        let pid = try #require(pid_t(pool.event("forked").split(separator: " ")[1]))
        let began = now()
        try pool.event("worker \(pid) was not ready within startTimeout")
        #expect(now() - began < 20)
        try pool.event("worker \(pid): killed by SIGKILL", "before it had served")
        #expect(try pool.running.wait() == 1)
        try pool.running.expectNothingAlive()
    }

    @Test("a worker that writes rubbish all over what it shares harms nobody else")
    func scribbler() throws {
        let pool = try Pool("workers=3", "limit=20", "heartbeat=20", "requests=1000").serving()
        let clients = try (0..<3).map { _ in try pool.client() }
        let pages = try clients.map { try $0.ask("page") }
        #expect(Set(pages).count == 3 && pages.allSatisfy { !$0.isEmpty && !$0.contains(" ") }, "\(pages)")
        let pids = try clients.map { try pid_t($0.ask("pid")) }
        for round in 0..<3 {
            try clients[0].send("scribble 0.2\n")
            for signal in [SIGTTIN, SIGTTOU] { pool.signal(signal) }  // so that it looks meanwhile
            for other in clients.dropFirst() { try other.echo("round \(round)") }
            #expect(try clients[0].receive() == "1\n")
        }
        for (other, pid) in zip(clients, pids).dropFirst() { #expect(try pid_t(other.ask("pid")) == pid) }
        clients[0].finishSending()
        try pool.client().echo("hello")
        for client in clients { client.finishSending() }
        try pool.stop()
    }
}
