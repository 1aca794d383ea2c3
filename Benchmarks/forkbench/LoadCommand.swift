// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import CForkbench
import Glibc

struct LoadCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "load",
        abstract: "Puts HTTP requests on a server on this machine, and tells how many failed.",
        discussion: """
            Each connection asks for the path, waits for the answer, and asks again at once: each time on a new \
            connection, with Connection: close, or with --keep-alive on the same one until the server closes it.

            failed: refused, reset, or closed before the answer was complete. retried: with --keep-alive, the server \
            closed a connection that had carried a request before, without a byte of an answer; as RFC 9112 9.3.1 \
            allows, the request is sent again on a new connection, and that is no failure. After a failure a \
            connection pauses for \(HTTPLoad.pauseMilliseconds) ms. Traps are sent on connections of their own, and are none of the \
            requests.

            Exit status: 1 if a request failed (unless --allow-failures) or none was answered with 200, 64 for wrong \
            usage, 71 for what the machine does not have.
            """
    )

    @Argument(
        help: ArgumentHelp("Where it listens: 127.0.0.1:PORT.", valueName: "address"), transform: Self.port)
    var address: UInt16
    @Option(help: ArgumentHelp("What is asked for.", valueName: "path"))
    var path = "/"
    @Option(
        help: ArgumentHelp("How many at once.", valueName: "n"), transform: { try number($0, from: 1, to: 20_000) })
    var connections = 300
    @Option(help: ArgumentHelp("For how long (default: 5; with --requests 300 at most).", valueName: "seconds"))
    var seconds: Double?
    @Option(
        help: ArgumentHelp("Only so many in all.", valueName: "n"),
        transform: { try number($0, from: 1, to: 100_000_000) })
    var requests: Int?
    @Flag(help: "Ask again on the same connection.")
    var keepAlive = false
    @Option(help: ArgumentHelp("What makes a worker of the server fail.", valueName: "path"))
    var trapPath: String?
    @Option(help: ArgumentHelp("How often --trap-path is asked for.", valueName: "seconds"))
    var trapEvery = 1.0
    @Flag(help: "Exit with 0 even if requests failed.")
    var allowFailures = false
    @Option(help: ArgumentHelp("Also write the result there, as a JSON object; - is stdout.", valueName: "file"))
    var json: String?

    private static func port(_ address: String) throws -> UInt16 {
        let parts = address.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 2, ["127.0.0.1", "localhost"].contains(parts[0]), let port = UInt16(parts[1]), port > 0
        else { throw ValidationError("it must be 127.0.0.1:PORT: load is put on this machine only") }
        return port
    }

    func validate() throws {
        for path in [path, trapPath ?? "/"]
        where !path.hasPrefix("/") || path.utf8.contains(where: { $0 <= 32 || $0 > 126 }) {
            throw ValidationError("a path must begin with '/', and its characters must be printable ASCII")
        }
        for (name, value) in [("seconds", seconds ?? 5), ("trap-every", trapEvery)] {
            guard value >= 0.01, value <= 3600 else {
                throw ValidationError("--\(name) is \(value), and must be from 0.01 to 3600")
            }
        }
    }

    func run() throws {
        let output = try json.map(JSONFile.init)
        let code = forkbench_remember_signals()
        guard code == 0 else { throw Shortage("sigaction", code) }
        try Limits.provide(children: 0, descriptors: connections + 64)
        let load = HTTPLoad(
            connections: connections, keepsAlive: keepAlive, path: path,
            trap: trapPath.map { .init(path: $0, every: trapEvery) },
            seconds: seconds ?? (requests == nil ? 5 : 300), requests: requests)
        let result = try load.put(on: address)
        // A program reads stdout then.
        writeAll(line(result) + "\n", to: json == "-" ? STDERR_FILENO : STDOUT_FILENO)
        try output?.write(object(result))
        if result.counted == 0 || (result.failed > 0 && !allowFailures) { throw ExitCode(1) }
    }

    private var mode: HTTPMode { keepAlive ? .keepAlive : .close }

    private func line(_ result: HTTPLoadResult) -> String {
        let (p50, p99, most) = result.threeLatencies
        let latencies = "p50 \(figure(p50)) µs, p99 \(figure(p99)) µs, max \(figure(most)) µs"
        var parts = ["\(result.requests) requests, \(result.failed) failed"]
        if result.failed > 0 { parts[0] += " (\(result.reasons))" }
        if keepAlive { parts.append("\(result.retried) retried") }
        if result.otherStatus > 0 { parts.append("\(result.otherStatus) not answered with 200") }
        if trapPath != nil { parts.append("\(result.trapsSent) traps (\(result.trapsAnswered) answered)") }
        parts += ["\(figure(result.requestsPerSecond)) a second", latencies]
        return parts.joined(separator: ", ") + ", longest gap \(figure(result.longestGap)) ms"
    }

    private func object(_ result: HTTPLoadResult) -> JSONLine {
        let (p50, p99, most) = result.threeLatencies
        var line = JSONLine()
        line.add("benchmark", "load")
        line.add("mode", mode.rawValue)
        line.add("connections", connections)
        line.add("requests", result.requests)
        line.add("failed", result.failed)
        line.add("retried", result.retried)
        line.add("other_status", result.otherStatus)
        line.add("traps_sent", result.trapsSent)
        line.add("traps_answered", result.trapsAnswered)
        line.add("rps", result.requestsPerSecond)
        line.add("p50_us", p50)
        line.add("p99_us", p99)
        line.add("max_us", most)
        line.add("longest_gap_ms", result.longestGap)
        return line
    }
}

extension HTTPLoadResult {
    /// Microseconds; nothing was answered: 0.
    fileprivate var threeLatencies: (Double, Double, Double) {
        let values = counted > 0 ? latencies(at: [50, 99, 100]) : [0, 0, 0]
        return (values[0], values[1], values[2])
    }
}
