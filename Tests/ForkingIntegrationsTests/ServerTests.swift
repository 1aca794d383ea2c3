// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("Workers that are groups of services")
struct WorkerServiceTests {
    private func start() throws -> (Host, address: String) {
        let host = try Host(["prefork"])
        let address = try value("addresses", in: host.expect("info serving"))
        return (host, address.filter { !"[]\"".contains($0) })
    }

    /// The services of a worker ended in order.
    private func expectGraceful(_ host: Host, _ worker: String) throws {
        let places = try ["served", "database shut down", "group ended"].map { try host.place(of: "\(worker) \($0)") }
        #expect(places == places.sorted())
        let ended = host.lines[try host.place(of: "info worker ended", "pid=\(worker) ")]
        #expect(try value("exit_status", in: ended) == "0" && value("end", in: ended) == "expected")
    }

    @Test("SIGTERM to the parent: each group shuts down gracefully, when its clients have been served")
    func drains() throws {
        let (host, address) = try start()
        let client = try Client(address)
        let worker = try client.ask("pid")
        host.running.send(SIGTERM)
        // The other one, which has no client.
        let other = try value("pid", in: host.expect("info worker ended"))
        #expect(other != worker)
        #expect(try client.ask("still there") == "still there")
        client.finishSending()
        try host.expectEnd()
        for worker in [worker, other] { try expectGraceful(host, worker) }
        #expect(host.value("forking_pool_workers{}") == 0)
        #expect(host.value("forking_pool_exits_total{cause=success,end=expected}") == 2)
        #expect(host.madeTwice == [])
    }

    @Test("SIGTERM to a worker is the worker's: its group shuts down, and the parent knows")
    func drainsOne() throws {
        let (host, address) = try start()
        let client = try Client(address)
        let worker = try client.ask("pid")
        kill(Int32(worker)!, SIGTERM)
        try host.expect("info worker drains", "pid=\(worker) reason=signalled")
        #expect(try client.ask("still there") == "still there")
        client.finishSending()
        try host.expect("info worker ended", "pid=\(worker) ")
        try expectGraceful(host, worker)
        host.running.send(SIGTERM)
        try host.expectEnd()
        #expect(host.value("forking_pool_drains_total{reason=signalled}") == 1)
    }

    @Test("a service that ends, or fails, ends its worker, which serves its clients to their end and is replaced")
    func endsWithService() throws {
        let (host, address) = try start()
        for (request, level, status) in [("end", "info", "0"), ("fail", "warning", "1")] {
            let client = try Client(address)
            let worker = try client.ask("pid")
            #expect(try client.ask(request) == request)
            try host.expect("info worker drains", "pid=\(worker) ")
            #expect(try client.ask("still there") == "still there")
            client.finishSending()
            let ended = try host.expect("\(level) worker ended", "pid=\(worker) ")
            #expect(try value("exit_status", in: ended) == status)
            #expect(try Client(address).ask("pid") != worker)
        }
        host.running.send(SIGTERM)
        try host.expectEnd()
        #expect(host.value("forking_pool_forks_total{}") == 4)
    }
}

@Suite("A forking server's events")
struct ServerEventTests {
    @Test("children are logged and measured, and the parent has one thread")
    func children() throws {
        let host = try Host(["forking"])
        let address = try value("addresses", in: host.expect("info serving")).filter { !"[]\"".contains($0) }
        let client = try Client(address)
        #expect(try client.ask("hello") == "hello")
        let forked = try host.expect("debug child forked")
        #expect(try value("peer", in: forked) == "127.0.0.1:\(client.port)")
        client.finishSending()
        let ended = try host.expect("debug child ended", "exit_status=0")
        #expect(try pid(in: ended) == pid(in: forked))
        #expect(try value("peer", in: ended) == value("peer", in: forked))
        for key in ["duration_ms", "cpu_ms", "max_rss_kib"] { #expect(try Double(value(key, in: ended))! > 0) }
        let unlucky = try Client(address)
        try unlucky.send("trap\n")
        let trapped = try host.expect("warning child ended", "peer=127.0.0.1:\(unlucky.port) ")
        let signal = try value("signal", in: trapped)
        #expect(["SIGILL", "SIGTRAP"].contains(signal))
        #expect(entries(of: "/proc/\(host.running.pid)/task").count == 1)
        host.running.send(SIGTERM)
        try host.expectEnd()
        #expect(host.value("forking_server_forks_total{}") == 2)
        #expect(host.value("forking_server_children{}") == 0)
        #expect(host.value("forking_server_exits_total{cause=success}") == 1)
        #expect(host.value("forking_server_exits_total{cause=\(signal)}") == 1)
        #expect(try #require(host.value("forking_server_child_duration{}")) > 0)
        #expect(host.madeTwice == [])
    }
}
