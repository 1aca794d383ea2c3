// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("PreforkServer: workers that are replaced")
struct PreforkRecyclingTests {
    @Test("after so many requests, and never one too few", arguments: [1, 10])
    func requests(limit: Int) throws {
        let pool = try Pool("workers=1", "requests=\(limit)").serving()
        var served: [String: Int] = [:]
        while served.count < 5 {
            let pid = try pool.client().ask("pid")
            served[pid, default: 0] += 1
            // Until its parent has seen that it has had enough, it serves on. What is said of another's is no sign of
            // that.
            if served[pid]! == limit + limit / 10 { try pool.event("worker \(pid) drains: it asked to be replaced") }
        }
        try pool.waitForReady(1)
        #expect(pool.fewestReady >= 1)
        // One more may have come to it before it knew.
        #expect(served.values.allSatisfy { $0 <= limit + limit / 10 + 1 }, "\(served)")
        try pool.stop()
    }

    @Test("after so long, each at a time of its own")
    func age() throws {
        let pool = try Pool("workers=3", "age=0.8").serving()
        for _ in 0..<6 { try pool.event("drains: it is older than maxAge") }
        #expect(pool.fewestReady == 3)
        #expect(pool.mostActive <= 4)
        try pool.stop()
    }

    @Test("above so much memory")
    func memory() throws {
        let pool = try Pool("workers=2", "memory=40000").serving()
        let (large, small) = try (pool.client(), pool.client())
        let pid = try large.ask("pid")
        try small.echo("hello")
        try large.echo("allocate 60")
        try pool.event("worker \(pid) drains: it uses more memory than maxMemoryKiB")
        try large.echo("finished in peace")
        large.finishSending()
        try pool.event("worker \(pid): exited with status 0")
        try small.echo("still here")
        small.finishSending()
        #expect(pool.fewestReady == 2)
        try pool.stop()
    }

    @Test("at its own wish")
    func retire() throws {
        let pool = try Pool("workers=2").serving()
        let client = try pool.client()
        let pid = try client.ask("pid")
        try client.echo("retire")
        try pool.event("worker \(pid) drains: it asked to be replaced")
        #expect(try client.ask("draining") == "true true")
        client.finishSending()
        try pool.event("worker \(pid): exited with status 0")
        #expect(pool.fewestReady == 2)
        try pool.stop()
    }

    // MARK: Stuck

    @Test("an endless loop is ended, and what idles meanwhile is not")
    func stuck() throws {
        let pool = try Pool("workers=2", "limit=3", "counts=no").serving()
        let (stuck, idle) = try (pool.client(), pool.client())
        let pid = try stuck.ask("pid")
        try idle.echo("idle")
        try stuck.echo("begin")
        try stuck.send("crash loop\n")
        let began = now()
        try pool.event("worker \(pid) has been stuck for ", "its last peer was 127.0.0.1:\(stuck.port)")
        try pool.event("worker \(pid): killed by SIGABRT")
        try pool.waitForReady(2)
        #expect(now() - began >= 2.5 && now() - began < 20)
        try idle.echo("still here")
        idle.finishSending()
        try pool.stop()
        #expect(pool.running.output.components(of: "stuck").count == 1)
    }

    @Test("one that blocks SIGABRT gets SIGKILL", arguments: ["block", "ignore \(SIGABRT)"])
    func stubborn(how: String) throws {
        let pool = try Pool("workers=1", "limit=2", "kill=0.4").serving()
        let client = try pool.client()
        let pid = try client.ask("pid")
        try client.echo(how)
        try client.send("crash loop\n")
        try pool.event("worker \(pid) has been stuck")
        let began = now()
        try pool.waitForReady(1)
        try pool.client().echo("served meanwhile")
        try pool.event("worker \(pid): killed by SIGKILL")
        #expect(now() - began > 0.3)
        try pool.stop()
    }

    @Test("a request that its handler has not ended ends when the handler returns")
    func unbalanced() throws {
        let pool = try Pool("workers=1", "limit=3", "counts=no").serving()
        for _ in 0..<3 {
            let client = try pool.client()
            try client.echo("begin")
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        let client = try pool.client()
        try client.echo("begin")
        try client.send("crash loop\n")
        try pool.event("has been stuck")
        #expect(try client.receiveAll() == "")
        try pool.stop()
    }

    @Test("a worker that waits for a client is not silent, one that serves it without a beat is")
    func idleIsNotSilent() throws {
        let pool = try Pool("workers=1", "heartbeat=1", "age=3", "kill=0.1").serving()
        try pool.event("it is older than maxAge")
        #expect(!pool.running.output.contains("stuck"))
        try pool.stop()
        // Of another pool: a worker that drains, as it is older than maxAge, may take its time.
        let other = try Pool("workers=1", "heartbeat=1", "kill=0.1").serving()
        try other.client().send("crash loop\n")
        try other.event("has been stuck")
        try other.stop()
    }

    @Test("a body that no longer beats is ended; one that does is not")
    func heartbeat() throws {
        let sign = try Sign()
        let pool = try Pool("workers=2", "body=beats", "heartbeat=2", "file=\(sign.path)").serving()
        let before = pool.ready
        usleep(3_000_000)  // to have been left alone for longer than the limit
        sign.put()
        try pool.event("has been stuck for ")
        sign.remove()
        for _ in 0..<2 { try pool.event("killed by SIGABRT") }
        try pool.waitForReady(2)
        #expect(pool.ready.isDisjoint(with: before))
        #expect(pool.running.output.components(of: "has been stuck").count == 2)
        try pool.stop()
    }
}

extension String {
    /// The lines that have `text` in them.
    func components(of text: String) -> [Substring] { split(separator: "\n").filter { $0.contains(text) } }
}
