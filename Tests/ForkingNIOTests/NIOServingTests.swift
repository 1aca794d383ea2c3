// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("workers that serve with NIO", .serialized)
struct ServingTests {
    /// Each way to serve, and the ways to lose connections: several loops, set-ups that take their time.
    static let kinds = [
        ["handlers"], ["tasks"], ["handlers", "--loops", "3"], ["tasks", "--loops", "3", "--late", "20"],
    ]

    @Test(
        "hundreds of requests are answered, by both workers, while none of NIO's threads is in the parent",
        arguments: kinds)
    func requests(arguments: [String]) throws {
        for closing in [true, false] {
            let server = try Served(arguments)
            let load = Load(server.address, clients: 8, closing: closing)
            defer { load.finish() }
            // Connections that stay may all have come to one worker, before the other was there.
            try eventually("\(load.answers), \(load.failures)") {
                load.count > 400 && load.answers.count >= (closing ? 2 : 1)
            }
            load.finish()
            #expect(load.failures.isEmpty)
            #expect(entries(of: "/proc/\(server.running.pid)/task").count == 1)
            try server.stop()
        }
    }

    @Test("draining one worker after the other loses no request, and no connection", arguments: kinds)
    func drain(arguments: [String]) throws {
        for closing in [true, false] {
            // On a busy machine a second is soon over.
            let server = try Served(arguments + ["--drain-timeout", "60000"])
            let load = Load(server.address, clients: 16, closing: closing)
            defer { load.finish() }
            for round in 1...10 {
                let before = load.answers
                func served(_ worker: pid_t) -> Int {
                    load.answers["\(worker)", default: 0] - before["\(worker)", default: 0]
                }
                try eventually("round \(round): \(load.answers), \(load.failures)") {
                    server.workers.count == 2 && server.workers.contains { served($0) > 50 }
                }
                let worker = try #require(server.workers.max { served($0) < served($1) })
                kill(worker, SIGTERM)
                try eventually("worker \(worker) does not end") { Process(worker) == nil }
            }
            load.finish()
            #expect(load.failures.isEmpty)
            try server.stop()
        }
    }

    @Test("a trap fails the requests of its own worker alone", arguments: kinds.prefix(2))
    func trap(arguments: [String]) throws {
        let server = try Served(arguments)
        let bystander = try HTTPClient(server.address)
        try bystander.ask()
        let other = try #require(try bystander.answer()).body
        let load = Load(server.address, clients: 8, closing: true)
        defer { load.finish() }
        var traps = 0
        while traps < 5 {
            // Only on a connection that is not the bystander's worker's.
            let client = try HTTPClient(server.address)
            try client.ask()
            guard try #require(try client.answer()).body != other else { continue }
            try client.ask("/trap")
            #expect(try client.answer() == nil)
            traps += 1
            try bystander.ask()
            #expect(try bystander.answer()?.body == other)
        }
        load.finish()
        // Each of them costs no more than what its worker was about to answer.
        #expect(load.failures.count <= 5 * 8)
        #expect(load.failures.allSatisfy { $0.contains("without an answer") }, "\(load.failures)")
        try server.stop()
    }

    @Test("an idle connection stays open while its worker drains, and the next answer is its last", arguments: kinds)
    func idle(arguments: [String]) throws {
        let server = try Served(arguments)
        let client = try HTTPClient(server.address)
        try client.ask()
        let first = try #require(try client.answer())
        #expect(!first.saysClose)
        let worker = pid_t(first.body)!
        kill(worker, SIGTERM)
        try eventually("no successor: it does not drain") { server.workers.count == 3 }
        try client.ask()
        let last = try #require(try client.answer())
        #expect(last.body == first.body && last.saysClose)
        #expect(try client.answer() == nil)
        try eventually("the worker does not end") { Process(worker) == nil }
        try server.stop()
    }

    @Test("a worker that has no clients ends when it is told to drain, not at its deadline", arguments: kinds)
    func drainIdle(arguments: [String]) throws {
        let server = try Served(arguments + ["--drain-timeout", "300000"])
        let client = try HTTPClient(server.address)
        try client.ask("/", close: true)
        kill(pid_t(try #require(try client.answer()).body)!, SIGTERM)
        #expect(try client.answer() == nil)
        try eventually("no successor") { server.workers.count >= 2 }
        let end = now() + 60
        try server.stop()
        #expect(now() < end)
    }

    @Test("requests that were sent at once are all answered before a draining worker closes")
    func pipelined() throws {
        let server = try Served(["tasks"])
        let client = try HTTPClient(server.address)
        try client.ask()
        let worker = pid_t(try #require(try client.answer()).body)!
        for _ in 0..<3 { try client.ask("/slow") }
        kill(worker, SIGTERM)
        for number in 1...3 { #expect(try #require(try client.answer()).saysClose == (number == 3)) }
        #expect(try client.answer() == nil)
        try server.stop()
    }

    @Test("a last answer arrives whole, though its client goes on sending", arguments: kinds.prefix(2))
    func talkative(arguments: [String]) throws {
        let server = try Served(arguments)
        let client = try HTTPClient(server.address)
        try client.ask("/long", close: true)
        var piece = [UInt8](repeating: 0, count: 65_536)
        var count = 0
        while true {
            usleep(2000)  // it is some way off
            send(client.client.descriptor, "\n", 1, Int32(MSG_NOSIGNAL))
            let got = recv(client.client.descriptor, &piece, piece.count, 0)
            try #require(got >= 0, "after \(count) bytes: \(String(cString: strerror(errno)))")
            if got == 0 { break }
            count += got
        }
        #expect(count > 600_000)
        try server.stop()
    }

    @Test("a last answer that comes before its request is whole closes once that has come")
    func early() throws {
        let server = try Served(["tasks", "--idle", "300000"])
        let client = try HTTPClient(server.address)
        try client.client.send("POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 4\r\n\r\n")
        #expect(try #require(try client.answer()).saysClose)
        try client.client.send("body")
        #expect(try client.answer() == nil)
        try server.stop()
    }

    @Test("a client that has shut down its sending side gets its answer")
    func halfClosed() throws {
        let server = try Served(["tasks"])
        let client = try HTTPClient(server.address)
        try client.ask("/slow")
        client.client.finishSending()
        #expect(try client.answer() != nil)
        #expect(try client.answer() == nil)
        try server.stop()
    }

    @Test("the listener's queue keeps the length that it was made with, while workers come and go")
    func backlog() throws {
        let server = try Served(["handlers"], backlog: 300)
        let load = Load(server.address, clients: 2, closing: true)
        defer { load.finish() }
        var lengths = Set<UInt32>()
        for _ in 0..<5 {
            let before = server.workers
            for worker in before { kill(worker, SIGTERM) }
            try eventually("no successors serve: \(load.failures)") {
                lengths.insert(queueLength(of: server.socket))
                let now = server.workers
                return before.allSatisfy { Process($0) == nil } && now.contains { load.answers["\($0)"] != nil }
            }
        }
        load.finish()
        #expect(lengths == [300])
        try server.stop()
    }

    @Test("a worker without a descriptor left waits for one without turning in circles")
    func shortage() throws {
        let server = try Served(shell: "ulimit -n 64; exec \"$0\" \"$@\"", ["handlers", "--workers", "1"])
        var clients: [HTTPClient] = []
        for _ in 0..<80 {
            clients.append(try HTTPClient(server.address))
            try clients.last!.ask()
        }
        #expect(try clients[0].answer() != nil)
        let worker = try #require(server.workers.first)
        let before = try #require(ticks(of: worker))
        sleep(1)  // what it does in that time is what is looked for
        #expect(try #require(ticks(of: worker)) - before < 20, "hundredths of a second on the processor, in one second")
        let last = clients.removeLast()
        clients.removeAll()
        #expect(try last.answer() != nil)
        try server.stop()
    }

    @Test("a worker whose threads are stuck is replaced, and one that only idles is not", arguments: kinds)
    func heartbeat(arguments: [String]) throws {
        let server = try Served(arguments + ["--workers", "1", "--heartbeat", "800"])
        try eventually("no worker") { server.workers.count == 1 }
        let worker = server.workers[0]
        sleep(2)  // more than twice the limit
        #expect(server.workers == [worker])
        // As many as Concurrency has threads.
        var clients: [HTTPClient] = []
        for _ in 0..<sysconf(Int32(_SC_NPROCESSORS_ONLN)) {
            clients.append(try HTTPClient(server.address))
            try clients.last!.ask("/spin")
        }
        try eventually("it is not replaced") { Process(worker) == nil }
        clients.removeAll()
        let client = try HTTPClient(server.address)
        try client.ask()
        #expect(try client.answer() != nil)
        try server.stop()
    }

    @Test("a head that comes byte by byte has a limit, counted from its first byte; bodies and answers have none here")
    func slowHead() throws {
        for arguments in Self.kinds.prefix(2) {
            let server = try Served(arguments + ["--workers", "1", "--head", "1500"])
            let patient = try HTTPClient(server.address)
            let slow = try HTTPClient(server.address)
            for client in [patient, slow] {
                try client.ask()
                #expect(try client.answer() != nil)
            }
            usleep(2_000_000)  // idle for longer than a head may take
            try patient.client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
            try slow.client.send("GET / HTTP/1.1\r\nX: ")
            let began = now()
            var sent = 0
            while now() - began < 30, !slow.client.hasAnswer, sent < 1000 {
                try? slow.client.send("x")
                try patient.client.send("x")
                sent += 1
                usleep(50_000)  // a client that sends a byte now and then
            }
            #expect(try slow.answer() == nil)
            #expect(now() - began >= 1.5 && now() - began < 30)
            try patient.client.send(String(repeating: "x", count: 1000 - sent))
            #expect(try patient.answer() != nil)
            try server.stop()
        }
    }

    @Test(
        "an idle connection has a limit, new or used; one that awaits its answer has none", arguments: kinds)
    func idleLimit(arguments: [String]) throws {
        let server = try Served(arguments + ["--workers", "1", "--idle", "500"])
        let (silent, used, busy) = try (
            HTTPClient(server.address), HTTPClient(server.address), HTTPClient(server.address)
        )
        try used.ask()
        #expect(try used.answer() != nil)
        try busy.ask("/later")
        #expect(try silent.answer() == nil)
        #expect(try used.answer() == nil)
        #expect(try busy.answer() != nil)
        try server.stop()
    }

    @Test(
        "a worker that nobody tells of its parent's end drains, and ends with idle clients", .needsRoot)
    func orphan() throws {
        let server = try Served(["handlers", "--workers", "1", "--drain-timeout", "300", "--kill", "300"])
        let client = try HTTPClient(server.address)
        try client.ask("/outlive-parent")
        let worker = pid_t(try #require(try client.answer()).body)!
        server.running.send(SIGKILL)
        #expect(try server.running.wait() == -SIGKILL)
        // It closes no idle connection, but is ended with it.
        let begun = now()
        #expect(try client.answer() == nil)
        #expect(now() - begun < 40, "something else has ended it")
        try eventually("\(worker) goes on") { Process(worker).map(\.isZombie) ?? true }
        try server.running.expectNothingAlive()
    }

    @Test("plain connections: an echo outlives the word to drain until its client is done")
    func echo() throws {
        let server = try Served(["echo", "--workers", "1"])
        let client = try Client(server.address)
        try client.echo("one")
        let worker = try #require(server.workers.first)
        kill(worker, SIGTERM)
        try eventually("no successor: it does not drain") { server.workers.count == 2 }
        try client.echo("two")
        client.finishSending()
        #expect(try client.receive() == "")
        try eventually("the worker does not end") { Process(worker) == nil }
        try Client(server.address).echo("three")
        try server.stop()
    }
}

/// A listening socket's limit: what listen(2) was told. TCP_INFO gives it as tcpi_sacked.
private func queueLength(of socket: Int32) -> UInt32 {
    var info = [UInt8](repeating: 0, count: 256)
    var length = socklen_t(info.count)
    getsockopt(socket, Int32(IPPROTO_TCP), 11, &info, &length)
    return info.withUnsafeBytes { $0.load(fromByteOffset: 28, as: UInt32.self) }
}

/// Processor time used, in hundredths of a second.
private func ticks(of pid: pid_t) -> Int? {
    guard let text = contents(of: "/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else { return nil }
    let fields = text[text.index(after: end)...].split(separator: " ")
    return Int(fields[11])! + Int(fields[12])!
}
