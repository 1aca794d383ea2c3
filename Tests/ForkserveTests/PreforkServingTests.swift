// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve prefork serves")
struct PreforkServingTests {
    @Test("echo, by as many workers as asked for", arguments: [1, 3])
    func echo(workers: Int) throws {
        let (server, address) = try prefork(["--workers", "\(workers)"])
        #expect(address.hasPrefix("127.0.0.1:") && !address.hasSuffix(":0"))
        #expect(liveChildren(of: server.pid).count == workers)
        let clients = try (0..<workers).map { _ in try Client(address) }
        for client in clients { try client.echo("hello") }
        let waiting = try Client(address)
        try waiting.send("hello\n")
        clients[0].finishSending()
        #expect(try waiting.receive() == "hello\n")
        for client in clients + [waiting] { client.finishSending() }
        try stop(server)
        #expect(server.errors == "")
    }

    @Test("by default as many workers as cores that may be used")
    func usableCores() throws {
        let (all, _) = try prefork([])
        let script = "exec taskset -c \(firstUsableCore()) \"$0\" prefork 127.0.0.1:0"
        let (bound, _) = try forkserve(shell: script)
        #expect(liveChildren(of: bound.pid).count == 1)
        #expect(liveChildren(of: all.pid).count >= 1)
        try stop(bound)
        try stop(all)
    }

    private func firstUsableCore() -> Substring {
        let status = contents(of: "/proc/self/status") ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("Cpus_allowed_list:") }
        return line?.dropFirst("Cpus_allowed_list:\t".count).prefix { $0.isNumber } ?? "0"
    }

    // MARK: HTTP

    private static let long = String(repeating: "x", count: 10_000)
    private static let closing = "GET / HTTP/1.1\r\nConnection: close\r\n\r\n"

    /// What is sent, and all that comes back.
    static let exchanges: [(request: String, answer: String)] = [
        (closing, lastHTTPAnswer),
        ("GET / HTTP/1.0\r\n\r\n", lastHTTPAnswer),
        (httpRequest, httpAnswer),
        (httpRequest + httpRequest + closing + httpRequest, httpAnswer + httpAnswer + lastHTTPAnswer),
        ("\r\n\r\n" + closing, lastHTTPAnswer),
        ("POST / HTTP/1.1\r\ncontent-LENGTH: 5\r\n\r\nGET /" + closing, httpAnswer + lastHTTPAnswer),
        ("POST / HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n" + httpRequest, ""),
        (
            "POST / HTTP/1.1\r\nContent-Length: 200000\r\n\r\n" + String(repeating: "\r\n", count: 100_000) + closing,
            httpAnswer + lastHTTPAnswer
        ),
        ("POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n" + httpRequest, lastHTTPAnswer),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", lastHTTPAnswer),
        ("", ""),
        ("GET / HT", ""),
        ("GET / HTTP/1.1\r\n", ""),
        ("GET / HTTP/1.1\r\nHost: a", ""),
        (httpRequest + "GET / HTTP/1.1\r\nHost", httpAnswer),
        ("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel", ""),
        ("GET /\(long) HTTP/1.1\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\nCookie: \(long)\r\n\r\n", ""),
        ("GET / HTTP/1.1\r\n" + String(repeating: "a: \(long.prefix(5000))\r\n", count: 20) + "\r\n", ""),
    ]

    @Test("HTTP, whatever a client sends: the one worker answers, and lives on")
    func http() throws {
        let (server, address) = try prefork(["--workers", "1", "--http", "--timeout", "30"])
        let worker = liveChildren(of: server.pid)
        for (request, answer) in Self.exchanges {
            let client = try Client(address)
            try? client.send(request)
            client.finishSending()
            let all = try client.receiveAll()
            #expect(all == answer, "\(request.prefix(100))")
        }
        #expect(liveChildren(of: server.pid) == worker)
        try stop(server)
    }

    @Test("HTTP: a connection stays open between requests, longer than a request may take")
    func keepAlive() throws {
        let (server, address) = try prefork(["--workers", "1", "--http", "--timeout", "2", "--verbose"])
        let client = try Client(address)
        for _ in 0..<2 {
            try client.send(httpRequest)
            #expect(try client.receive() == httpAnswer)
            usleep(2_500_000)  // longer than the limit
        }
        client.finishSending()
        #expect(try client.receiveAll() == "")
        #expect(!server.errors.contains("stuck"))
        try stop(server)
    }

    @Test(
        "HTTP: a byte now and then does not keep a worker",
        arguments: ["GET / HTTP/1.1\r\nX: ", body])
    func slowRequest(start: String) throws {
        let (server, address) = try prefork(["--workers", "1", "--http", "--timeout", "1"])
        let worker = liveChildren(of: server.pid)
        let slow = try Client(address)
        try slow.send(start)
        let waiting = try Client(address)
        try waiting.send(Self.closing)
        let began = now()
        while now() - began < 30, !slow.hasAnswer {
            try? slow.send("x")
            usleep(50_000)  // it is never silent for long
        }
        #expect(now() - began < 30)
        #expect(try slow.receiveAll() == "")
        #expect(try waiting.receiveAll() == lastHTTPAnswer)
        // It is the client's fault, and costs no worker.
        #expect(liveChildren(of: server.pid) == worker && server.errors == "")
        try stop(server)
    }

    static let body = "POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n"

    @Test("HTTP: a head alone has a limit of its own")
    func slowHead() throws {
        let (server, address) = try prefork(["--workers", "1", "--http", "--head-timeout", "1"])
        let slow = try Client(address)
        try slow.send("GET / HTTP/1.1\r\nX: ")
        let began = now()
        while now() - began < 30, !slow.hasAnswer {
            try? slow.send("x")
            usleep(50_000)  // it is never silent for long
        }
        #expect(now() - began >= 0.9 && now() - began < 30)
        try stop(server)
    }

    @Test("a worker that is replaced has the request's limit, and the stop's only when the server stops")
    func replaced() throws {
        let (server, address) = try prefork([
            "--workers", "1", "--timeout", "60", "--drain-timeout", "0.3", "--verbose",
        ])
        let client = try Client(address)
        try client.echo("hello")
        server.send(SIGHUP)
        try server.waitForError("all workers were replaced")
        usleep(1_000_000)  // longer than a stop would leave it
        try client.echo("still served")
        client.finishSending()
        #expect(try client.receiveAll() == "")
        try server.waitForError("exited with status 0")
        try stop(server)
    }

    // MARK: Sockets

    @Test("a Unix socket's file is there while it serves, and gone at the end")
    func unixSocket() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/socket"
        let (server, address) = try prefork(["--workers", "2"], at: "unix:\(path)")
        #expect(address == "unix:\(path)")
        let client = try Client(address)
        try client.echo("hello")
        client.finishSending()
        for worker in children(of: server.pid) { kill(worker, SIGTERM) }
        try Client(address).echo("its file stays when workers end")
        try stop(server)
        #expect(!fileExists(path))
    }

    @Test("sockets handed over are neither removed nor shut down", arguments: ["systemd", "fd:3", "fd:7"])
    func handedOver(place: String) throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/socket"
        let socket = try boundSocket("unix:\(path)")
        defer { close(socket) }
        let handed = place == "systemd" ? "LISTEN_PID=$$ LISTEN_FDS=1" : ""
        let script = "\(handed) exec \"$0\" prefork --workers 2 \(place)"
        let (server, address) = try forkserve(shell: script, inherited: [3: socket, 7: socket])
        #expect(address == "unix:\(path)")
        let client = try Client(address)
        try client.echo("hello")
        client.finishSending()
        try stop(server)
        #expect(server.errors == "")
        #expect(fileExists(path))
        let waiting = try Client(address)
        let accepted = accept(socket, nil, nil)
        #expect(accepted >= 0)
        close(accepted)
        #expect(try waiting.receiveAll() == "")
    }
}
