// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("PreforkServer: draining, replacing, resizing")
struct PreforkLifeTests {
    @Test("PreforkServer, in a process of its own", arguments: try Scenario.of("prefork-pool"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass(deadline: 20) }

    @Test("SIGTERM to one worker drains it, and it is replaced at once")
    func oneWorker() throws {
        let pool = try Pool("workers=2").serving()
        let client = try pool.client()
        let pid = try #require(pid_t(client.ask("pid")))
        kill(pid, SIGTERM)
        try pool.event("worker \(pid) drains: it got SIGTERM")
        try pool.waitForReady(2)
        #expect(try client.ask("draining") == "true true")
        try client.echo("still here")
        client.finishSending()
        try pool.event("worker \(pid): exited with status 0")
        try pool.stop()
    }

    @Test("SIGTERM to a worker's own child ends that one, and is nothing to the worker")
    func childOfWorker() throws {
        let pool = try Pool("workers=1").serving()
        #expect(try pool.client().ask("child") == "killed by SIGTERM false")
        try pool.stop()
    }

    @Test("deadlines: SIGTERM to who does not end, SIGKILL to who ignores that")
    func deadlines() throws {
        let pool = try Pool("workers=2", "drain=0.3", "kill=3").serving()
        let (plain, stubborn) = try (pool.client(), pool.client())
        let pids = try [plain, stubborn].map { try $0.ask("pid") }
        try stubborn.echo("ignore \(SIGTERM)")
        let began = now()
        pool.signal(SIGTERM)
        try pool.event("stopping: draining")
        try pool.event("stopping: terminating")
        #expect(now() - began >= 0.29)
        try pool.event("worker \(pids[0]): killed by SIGTERM")
        try pool.event("worker \(pids[1]): killed by SIGKILL")
        try pool.expectCleanEnd()
    }

    @Test("one that is replaced and does not end in time is ended, and the rest go on")
    func deadlineOfOne() throws {
        let pool = try Pool("workers=1", "drain=0.3", "kill=0.3").serving()
        let client = try pool.client()
        let pid = try client.ask("pid")
        try client.echo("ignore \(SIGTERM)")
        try client.echo("retire")
        try pool.event("worker \(pid) drains")
        try pool.client().echo("served meanwhile")
        try pool.event("worker \(pid): killed by SIGKILL")
        try pool.stop()
    }

    @Test("SIGHUP replaces all, never fewer than there should be, so many at a time", arguments: [1, 2])
    func replacing(atOnce: Int) throws {
        let pool = try Pool("workers=4", "at-once=\(atOnce)").serving()
        let before = pool.ready
        let client = try pool.client()
        let pid = try #require(pid_t(client.ask("pid")))
        pool.signal(SIGHUP)
        try pool.event("replacing all workers")
        try pool.event("worker \(pid) drains: it is being replaced")
        try client.echo("still here")
        client.finishSending()
        try pool.event("all workers were replaced")
        try pool.waitForReady(4)
        #expect(pool.ready.isDisjoint(with: before))
        #expect(pool.fewestReady == 4)
        #expect(pool.mostActive == 4 + atOnce)
        try pool.stop()
    }

    @Test("SIGHUP with workers that fail: the old ones go on, and it is told")
    func replacingFails() throws {
        let sign = try Sign()
        let pool = try Pool("workers=2", "body=accept", "file=\(sign.path)").serving()
        let before = pool.ready
        sign.put()
        pool.signal(SIGHUP)
        try pool.event("the reload has failed, and the old workers stay: the new worker", "exited with status 1")
        try pool.client().echo("served meanwhile")
        #expect(pool.ready == before && pool.fewestReady == 2)
        sign.remove()
        pool.signal(SIGHUP)
        try pool.event("all workers were replaced")
        #expect(pool.ready.isDisjoint(with: before) && pool.fewestReady == 2)
        try pool.stop()
    }

    @Test("SIGHUP with workers that are never ready: the same, in time")
    func replacingHangs() throws {
        let sign = try Sign()
        let pool = try Pool("workers=2", "body=late", "spawn=4", "file=\(sign.path)").serving()
        let before = pool.ready
        sign.put()
        pool.signal(SIGHUP)
        try pool.event("was not ready within startTimeout")
        try pool.event("the reload has failed, and the old workers stay")
        #expect(pool.ready == before && pool.fewestReady == 2)
        sign.remove()
        try pool.stop()
    }

    @Test("a service manager that waits for the end of a reload hears of it, also where nothing is replaced")
    func notPreparedIsTold() throws {
        let sign = try Sign()
        let directory = try TemporaryDirectory()
        let manager = try boundSocket("unix:\(directory.path)/manager", datagram: true)
        defer { close(manager) }
        let pool = try Pool(
            "workers=1", "prepare-file=\(sign.path)", environment: ["NOTIFY_SOCKET": directory.path + "/manager"]
        ).serving()
        sign.put()
        pool.signal(SIGHUP)
        try pool.event("the reload has failed, and the old workers stay: not prepared")
        try pool.stop()
        var heard: [String] = []
        var bytes = [UInt8](repeating: 0, count: 4096)
        while case let count = recv(manager, &bytes, bytes.count, Int32(MSG_DONTWAIT)), count > 0 {
            heard.append(String(decoding: bytes[..<count].prefix { $0 != 10 }, as: UTF8.self))
        }
        #expect(heard.filter { !$0.hasPrefix("STATUS=") } == ["READY=1", "RELOADING=1", "READY=1", "STOPPING=1"])
    }

    @Test("SIGHUP with a prepare that throws: nothing is replaced")
    func notPrepared() throws {
        let sign = try Sign()
        let pool = try Pool("workers=2", "prepare-file=\(sign.path)").serving()
        sign.put()
        pool.signal(SIGHUP)
        try pool.event("the reload has failed, and the old workers stay: not prepared")
        sign.remove()
        let before = pool.ready
        pool.signal(SIGHUP)
        try pool.event("all workers were replaced")
        #expect(pool.ready.isDisjoint(with: before))
        try pool.stop()
        #expect(pool.running.output.components(of: "forked").count == 4)
    }

    @Test("SIGTTIN and SIGTTOU: one more, one less, never none")
    func resizing() throws {
        let pool = try Pool("workers=2").serving()
        pool.signal(SIGTTIN)
        try pool.event("3 workers from now on")
        try pool.waitForReady(3)
        for left in [2, 1, 1] {
            pool.signal(SIGTTOU)
            try pool.event("\(left) workers from now on")
            try pool.waitForReady(left)
        }
        try pool.client().echo("hello")
        try pool.stop()
    }

    @Test("an adaptive pool grows while all are taken, also by connections that idle, and clients wait")
    func adaptive() throws {
        let pool = try Pool("workers=1", "max=3").serving()
        let clients = try (0..<3).map { _ in try pool.client() }
        for client in clients { try client.send("end\n") }  // connected, and no request on it
        for client in clients { #expect(try client.receive() == "end\n") }
        try pool.waitForReady(3)
        #expect(pool.mostActive == 3)
        for client in clients { client.finishSending() }
        try pool.event("2 workers from now on")
        try pool.stop()
    }
}
