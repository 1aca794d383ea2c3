// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("ForkingServer at a limit")
struct LimitTests {
    @Test("60 clients at once, never more than 4 children, all are served")
    func sixtyClients() throws {
        let server = try Served("max=4")
        let clients = try (0..<60).map { _ in try server.client() }
        for client in clients { try client.send("hello\n") }
        for (index, client) in clients.enumerated() {
            #expect(try client.receive() == "hello\n")
            // They are taken in order: whoever comes after the next three waits for this one's end.
            let last = min(index + 3, clients.count - 1)
            try eventually("client \(last) is not served") { clients[last].hasAnswer || last == index }
            #expect(server.liveChildren.count <= 4)
            if index + 4 < clients.count { #expect(!clients[index + 4].hasAnswer) }
            client.finishSending()
            #expect(try client.receiveAll() == "")
        }
        try server.stop()
    }

    @Test("at the limit signals, timers and hooks work, and waiting costs nothing")
    func atTheLimit() throws {
        let server = try Served("max=2", "idle=0.3")
        let served = try [server.servedClient(), server.servedClient()]
        let waiting = try server.client()
        try waiting.send("hello\n")
        server.signal(SIGHUP)
        try server.event("hangup")
        let before = processorTime(of: server.running.pid)
        for _ in 0..<3 { try server.event("idle") }
        server.signal(SIGHUP)
        let report = try server.event("hangup", "2 children")
        let turns = Int(report.split(separator: " ")[1])!
        #expect(turns < 20, "turns of the loop in a second: \(report)")
        #expect(processorTime(of: server.running.pid) - before < 0.2)
        #expect(!waiting.hasAnswer)
        served[0].finishSending()
        #expect(try waiting.receive() == "hello\n")
        try withExtendedLifetime(waiting) {
            for client in served + [waiting] { client.finishSending() }
            try server.stop()
        }
    }

    @Test("EMFILE on accept: no spin, told once, recovers by itself")
    func noDescriptors() throws {
        let server = try Served("shortage=descriptors", "idle=0.3")
        let served = try server.servedClient()
        server.signal(SIGUSR1)
        try server.event("shortage begins")
        let before = processorTime(of: server.running.pid)
        let started = now()
        server.signal(SIGHUP)
        try server.event("hangup")
        let waiting = try server.client()
        try waiting.send("hello\n")
        try server.event("new clients wait until this has passed: accept", "Too many open files")
        for _ in 0..<4 { try server.event("idle") }
        try served.echo("still here")
        server.signal(SIGHUP)
        let report = try server.event("hangup")
        let turns = Double(Int(report.split(separator: " ")[1])!)
        let seconds = now() - started
        // Each try is two turns: one for the pause's end, one for the accept.
        #expect(turns < 20 + 50 * seconds, "in \(seconds) s: \(report)")
        #expect(processorTime(of: server.running.pid) - before < 0.3 * seconds)
        #expect(!waiting.hasAnswer)
        server.signal(SIGUSR2)
        #expect(try waiting.receive() == "hello\n")
        #expect(running(server, saidOnce: "clients wait"))
        for client in [served, waiting] { client.finishSending() }
        try server.stop()
    }

    @Test("EMFILE on accept: at most 20 tries a second", .needs("strace", package: "strace"))
    func fewTries() throws {
        let server = try Served("shortage=descriptors", "idle=0.5")
        // Counted, not listed: a spin would drown this test in lines.
        let strace = try Running("strace", ["-c", "-e", "trace=accept4", "-p", "\(server.running.pid)"])
        try eventually("strace is not attached") {
            contents(of: "/proc/\(server.running.pid)/status")?.contains("TracerPid:\t\(strace.pid)\n") ?? false
        }
        let started = now()
        server.signal(SIGUSR1)
        try server.event("shortage begins")
        let waiting = try server.client()
        try server.event("clients wait")
        for _ in 0..<4 { try server.event("idle") }
        strace.send(SIGINT)
        _ = try strace.wait()
        let row = strace.errors.split(separator: "\n").first { $0.hasSuffix("accept4") }
        let tries = try #require(row.flatMap { Int($0.split(separator: " ")[3]) }, "\(strace.errors)")
        #expect(Double(tries) <= 2 + 20 * (now() - started), "\(tries) in \(now() - started) s")
        #expect(tries > 2)
        server.signal(SIGUSR2)
        try waiting.echo("hello")
        waiting.finishSending()
        try server.stop()
    }

    @Test("fork refused: that client waits, told once, and is served as soon as there are processes again")
    func noProcesses() throws {
        let server = try Served("shortage=processes")
        let served = try server.servedClient()
        server.signal(SIGUSR1)
        try server.event("shortage begins")
        let waiting = try server.client()
        try waiting.send("hello\n")
        try server.event("new clients wait until this has passed: fork", "too many processes or threads")
        try served.echo("still here")
        #expect(!waiting.hasAnswer)
        server.signal(SIGUSR2)
        try server.event("shortage ends")
        #expect(try waiting.receive() == "hello\n")
        #expect(running(server, saidOnce: "clients wait"))
        let later = try server.servedClient()
        for client in [served, waiting, later] { client.finishSending() }
        try server.stop()
    }

    @Test("1,000 connections through 32 descriptors")
    func thousandConnections() throws {
        let server = try Served("max=8", "quiet=yes")
        server.signal(SIGHUP)
        let before = try server.event("hangup")
        for _ in 0..<50 {
            let clients = try (0..<20).map { _ in try server.client() }
            for client in clients { try client.send("hello\n") }
            for client in clients {
                client.finishSending()
                #expect(try client.receiveAll() == "hello\n")
            }
        }
        try expectAsBefore(server, before)
        try server.stop()
    }

    @Test("2,000 clients that come and go in all manners leave nothing behind")
    func soak() throws {
        let server = try Served("max=64", "limit=20", "quiet=yes")
        server.signal(SIGHUP)
        let before = try server.event("hangup")
        var random = SystemRandomNumberGenerator()
        var open: [Client] = []
        for _ in 0..<2000 {
            let client = try server.client()
            // The peer may be gone while it is written to: nothing here may fail for it.
            switch random.next(upperBound: UInt(6)) {
            case 0: break
            case 1: try? client.send("half a line")
            case 2: try? client.send("hello\n")
            case 3: try? client.send("crash abort\n")
            case 4: client.resetWhenClosed()
            default:
                try? client.send("hello\nthrow\nnever read\n")
                client.resetWhenClosed()
            }
            open.append(client)
            if open.count > 40 { open.remove(at: Int(random.next(upperBound: UInt(open.count)))) }
        }
        open = []
        let last = try server.servedClient()
        last.finishSending()
        try expectAsBefore(server, before)
        try server.stop()
    }

    /// The table is empty, and the same descriptors are open, as when the server said `before`.
    private func expectAsBefore(_ server: Served, _ before: String) throws {
        func end(_ report: String) -> Substring { report[report.firstIndex(of: ",")!...] }
        try eventually("children are left, or other descriptors than '\(before)' are open") {
            server.signal(SIGHUP)
            return try end(server.event("hangup")) == end(before)
        }
    }

    private func running(_ server: Served, saidOnce text: String) -> Bool {
        server.running.output.split(separator: "\n").filter { $0.contains(text) }.count == 1
    }
}
