// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("PreforkServer: how long a worker that is replaced may go on")
struct PreforkReplacedTests {
    /// Ways in which a worker is taken out while the server serves, and what is said of it.
    static let ways = [
        ("retire", "it asked to be replaced"), ("SIGHUP", "it is being replaced"), ("SIGTERM", "it got SIGTERM"),
    ]

    @Test("a request has its own limit, not the one for a stop", arguments: ways)
    func ownLimit(way: String, reason: String) throws {
        let pool = try Pool("workers=1", "limit=60", "drain=0.2", "kill=0.2").serving()
        let client = try pool.client()
        let pid = try #require(pid_t(client.ask("pid")))
        switch way {
        case "SIGHUP": pool.signal(SIGHUP)
        case "SIGTERM": kill(pid, SIGTERM)
        default: try client.echo(way)
        }
        try pool.event("worker \(pid) drains: \(reason)")
        usleep(1_000_000)  // longer than a stop would leave it
        try client.echo("still served")
        client.finishSending()
        #expect(try client.receiveAll() == "")
        try pool.event("worker \(pid): exited with status 0")
        try pool.stop()
    }

    @Test("one over its limit is ended as in service, and told as stuck")
    func stuck() throws {
        let pool = try Pool("workers=1", "limit=1", "drain=60").serving()
        let client = try pool.client()
        let pid = try client.ask("pid")
        try client.echo("retire")
        try pool.event("worker \(pid) drains")
        let told = try pool.event("worker \(pid)")
        #expect(told.contains("has been stuck"), "\(told)")
        try pool.event("worker \(pid): killed by SIGABRT")
        try pool.client().echo("served on")
        try pool.stop()
    }

    @Test("one that began while its worker drained has all of its limit, too")
    func lateRequest() throws {
        let pool = try Pool("workers=1", "limit=6", "drain=0.1", "counts=no").serving()
        let client = try pool.client()
        let pid = try client.ask("pid")
        try client.echo("retire")
        try pool.event("worker \(pid) drains")
        usleep(300_000)  // some of the worker's time goes by before the request begins
        try client.echo("begin")
        // Were it ended when the worker's own time is over, that would be told otherwise.
        let told = try pool.event("worker \(pid)")
        #expect(told.contains("has been stuck"), "\(told)")
        try pool.stop()
    }

    @Test("what has no limit is ended after the drain time, and it is told why")
    func overdue() throws {
        let pool = try Pool("workers=1", "drain=0.3", "kill=30").serving()
        let client = try pool.client()
        let pid = try client.ask("pid")
        try client.echo("retire")
        try pool.event("worker \(pid) drains")
        let told = try pool.event("worker \(pid)")
        #expect(
            told.contains("after it was to drain (it asked to be replaced), its last peer was 127.0.0.1:\(client.port)")
        )
        let end = try pool.event("worker \(pid): killed by SIGTERM")
        #expect(!end.contains("server stops"), "\(end)")
        try pool.client().echo("served on")
        try pool.stop()
    }

    @Test("a limit for it alone: neither the request's nor the stop's")
    func replacementDrainTimeout() throws {
        let pool = try Pool("workers=1", "limit=60", "drain=60", "replacement-drain=0.3", "kill=0.3").serving()
        let client = try pool.client()
        let pid = try client.ask("pid")
        try client.echo("ignore \(SIGTERM)")
        try client.echo("retire")
        try pool.event("worker \(pid) still serves", "after it was to drain")
        try pool.event("worker \(pid): killed by SIGKILL")
        try pool.stop()
    }
}
