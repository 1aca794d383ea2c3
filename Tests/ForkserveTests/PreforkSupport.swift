// SPDX-License-Identifier: Apache-2.0

import Glibc
import Synchronization
import TestSupport
import Testing

/// A `forkserve prefork` that serves, and what it answers.
func prefork(
    _ options: [String], at address: String = "127.0.0.1:0", environment: [String: String] = [:],
    inherited: [Int32: Int32] = [:], program: String = forkserveProgram, deadline: Double = 60
) throws -> (Running, address: String) {
    let running = try Running(
        program, ["prefork"] + options + [address], environment: environment, inherited: inherited, deadline: deadline)
    return (running, try listeningAddress(of: running))
}

/// Those that are not dead.
func liveChildren(of pid: pid_t) -> Set<pid_t> {
    Set(children(of: pid).filter { Process($0).map { !$0.isZombie } ?? false })
}

let httpAnswer = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n\r\nhello\n"
let lastHTTPAnswer = httpAnswer.replacing("6\r\n\r\n", with: "6\r\nConnection: close\r\n\r\n")
let httpRequest = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"

extension String {
    func replacing(_ part: String, with other: String) -> String {
        var (done, rest) = ("", self[...])
        while let start = rest.indices.first(where: { rest[$0...].hasPrefix(part) }) {
            done += rest[..<start] + other
            rest = rest[rest.index(start, offsetBy: part.count)...]
        }
        return done + rest
    }
}

/// Clients that ask one request after the other, each in a thread of its own, and keep account as RFC 9112, 9.3.1 has
/// it: a connection that was used before and closes before any byte of an answer is no failure, the request is sent
/// once more.
final class Load {
    private struct Account {
        var answered = 0
        var retried = 0
        var failures: [String] = []
    }

    private final class Shared: Sendable {
        let address: String
        /// How many requests a connection is for.
        let requests: Int
        let isOver = Atomic(false)
        let account = Mutex(Account())
        init(_ address: String, _ requests: Int) { (self.address, self.requests) = (address, requests) }
    }

    private let shared: Shared
    private var threads: [pthread_t] = []

    init(_ address: String, clients: Int = 2, requestsEach: Int = 1) {
        shared = Shared(address, requestsEach)
        for _ in 0..<clients {
            var thread = pthread_t()
            pthread_create(
                &thread, nil,
                { context in
                    let shared = Unmanaged<Shared>.fromOpaque(context!).takeRetainedValue()
                    while !shared.isOver.load(ordering: .relaxed) { Load.connection(shared) }
                    return nil
                }, Unmanaged.passRetained(shared).toOpaque())
            threads.append(thread)
        }
    }

    deinit { end() }

    var answered: Int { shared.account.withLock { $0.answered } }

    /// Lets so many more requests be answered.
    func goOn(for count: Int) throws {
        let goal = answered + count
        try eventually("the load stands still: \(shared.account.withLock { $0.failures })") { answered >= goal }
    }

    /// Waits for all; returns what went wrong.
    @discardableResult
    func end() -> [String] {
        shared.isOver.store(true, ordering: .relaxed)
        for thread in threads { pthread_join(thread, nil) }
        threads = []
        return shared.account.withLock { $0.failures }
    }

    /// One connection's life. Client's thread.
    private static func connection(_ shared: Shared) {
        func note(_ change: (inout Account) -> Void) { shared.account.withLock { change(&$0) } }
        let client: Client
        do { client = try Client(shared.address) } catch {
            usleep(1000)
            return note { $0.failures.append("\(error)") }
        }
        for number in 1...shared.requests {
            let isLast = number == shared.requests
            let request =
                isLast ? httpRequest.replacing("\r\n\r\n", with: "\r\nConnection: close\r\n\r\n") : httpRequest
            var answer = ""
            do {
                try client.send(request)
                while !answer.hasSuffix("hello\n") {
                    let piece = try client.receive()
                    if piece.isEmpty { break }
                    answer += piece
                }
            } catch {
                if number == 1 || !answer.isEmpty { return note { $0.failures.append("request \(number): \(error)") } }
            }
            if answer.isEmpty, number > 1 { return note { $0.retried += 1 } }
            guard answer == httpAnswer || answer == lastHTTPAnswer else {
                return note { $0.failures.append("request \(number): '\(answer)'") }
            }
            note { $0.answered += 1 }
            if answer == lastHTTPAnswer { return }
        }
    }
}
