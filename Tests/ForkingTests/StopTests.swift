// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import TestSupport
import Testing

@Suite("ForkingServer stops")
struct StopTests {
    @Test("draining: no new clients, and whoever is served, or waited, may finish")
    func drain() throws {
        let server = try Served("max=1")
        let served = try server.servedClient()
        let waiting = try server.client()
        try waiting.send("hello\n")
        server.signal(SIGTERM)
        try server.event("stopping: draining")
        #expect(throws: Failure.self) { try server.client() }
        try served.echo("still here")
        #expect(!waiting.hasAnswer)
        served.finishSending()
        waiting.finishSending()
        #expect(try waiting.receiveAll() == "hello\n")
        try server.expectCleanEnd()
        #expect(!server.running.output.contains("terminating"))
    }

    @Test("the port is free as soon as draining begins")
    func freePort() throws {
        let server = try Served()
        let served = try server.servedClient()
        server.signal(SIGTERM)
        try server.event("stopping: draining")
        let successor = try Served("address=\(server.address)")
        try successor.servedClient().finishSending()
        try successor.stop()
        try served.echo("still here")
        served.finishSending()
        try server.expectCleanEnd()
    }

    @Test("the second signal terminates, the third kills")
    func threeSignals() throws {
        let server = try Served()
        let plain = try server.servedClient()
        let stubborn = try server.client()
        try stubborn.echo("ignore")
        server.signal(SIGTERM)
        try server.event("stopping: draining")
        server.signal(SIGINT)
        try server.event("stopping: terminating")
        #expect(try server.end(of: plain).contains("killed by SIGTERM on request"))
        try stubborn.echo("still here")
        server.signal(SIGTERM)
        try server.event("stopping: killing")
        #expect(try server.end(of: stubborn).contains("killed by SIGKILL on request"))
        try server.expectCleanEnd()
    }

    @Test("a stubborn child is killed after its deadline")
    func stubborn() throws {
        let server = try Served("drain=0.2", "kill=0.4")
        let client = try server.client()
        try client.echo("ignore")
        let started = now()
        server.signal(SIGTERM)
        #expect(try server.end(of: client).contains("killed by SIGKILL on request"))
        #expect(now() - started >= 0.6)
        try server.expectCleanEnd()
    }

    @Test("at the limit it stops as ever")
    func atTheLimit() throws {
        let server = try Served("max=2", "drain=0.2")
        let served = try [server.servedClient(), server.servedClient()]
        let waiting = try (0..<5).map { _ in try server.client() }
        server.signal(SIGTERM)
        try server.expectCleanEnd()
        for client in served + waiting { #expect(try client.receiveAll() == "") }
    }

    @Test("asked for while it forks: that client is still served")
    func whileForking() throws {
        let server = try Served("stop-at-fork=yes")
        let client = try server.servedClient()
        try server.event("stopping: draining")
        try client.echo("still here")
        client.finishSending()
        try server.expectCleanEnd()
    }

    @Test("a child cannot stop its parent's server")
    func fromChild() throws {
        let server = try Served("idle=0.2")
        let neighbour = try server.servedClient()
        let client = try server.client()
        try client.echo("stop")
        try server.event("idle")
        try server.servedClient().finishSending()
        for one in [client, neighbour] {
            try one.echo("still here")
            one.finishSending()
        }
        #expect(!server.running.output.contains("stopping"))
        try server.stop()
    }

    @Test("what children started dies too")
    func helpers() throws {
        let server = try Served("drain=0.2", "kill=0.4")
        let client = try server.client()
        let helpers = try [client.ask("helper"), client.ask("helper stubborn")].compactMap { pid_t($0) }
        server.signal(SIGTERM)
        try server.expectCleanEnd()
        #expect(helpers.count == 2 && !helpers.contains(where: isAlive))
    }

    @Test("what a child leaves that ends while draining lives on; one that is told to end takes its group along")
    func helpersWhileDraining() throws {
        let server = try Served("drain=120")
        let (first, second) = try (server.client(), server.client())
        let left = try #require(pid_t(first.ask("helper stubborn")))
        let taken = try #require(pid_t(second.ask("helper stubborn")))
        server.signal(SIGTERM)
        try server.event("stopping: draining")
        first.finishSending()
        #expect(try server.end(of: first).contains("exited with status 0"))
        try second.echo("still here")
        #expect(isAlive(left) && isAlive(taken))
        server.signal(SIGTERM)
        #expect(try server.end(of: second).contains("killed by SIGTERM"))
        try eventually("the helper lives on") { !isAlive(taken) }
        #expect(isAlive(left))
        kill(left, SIGKILL)
        try server.expectCleanEnd()
    }

    @Test("children die with a parent that is killed")
    func parentKilled() throws {
        let server = try Served()
        let clients = try (0..<3).map { _ in try server.servedClient() }
        server.signal(SIGKILL)
        #expect(try server.running.wait() == -SIGKILL)
        for client in clients { #expect(try client.receiveAll() == "") }
        try server.running.expectNothingAlive()
    }

    @Test("children live on after a parent that is killed, if so wished")
    func parentKilledAlone() throws {
        let server = try Served("tied=no")
        let client = try server.client()
        let child = try #require(pid_t(client.ask("pid")))
        server.signal(SIGKILL)
        try eventually("the parent lives on") { !isAlive(server.running.pid) }
        try client.echo("still here")
        client.finishSending()
        #expect(try client.receiveAll() == "")
        try eventually("the child lives on") { !isAlive(child) }
        #expect(try server.running.wait() == -SIGKILL)
        try server.running.expectNothingAlive()
    }

    @Test("Stopping, in a process of its own", arguments: try Scenario.of("stop"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}
