// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// A `scenarios prefork` whose client the test is. It keeps account of the workers by what the parent says.
final class Pool {
    let running: Running
    private(set) var address = ""
    /// Those that are there, neither draining nor ended.
    private(set) var ready: Set<pid_t> = []
    /// How many there were at least, and at most, starting ones included, since all were ready.
    private(set) var fewestReady = Int.max
    private(set) var mostActive = 0
    private var active: Set<pid_t> = []
    private var hasServed = false

    init(
        _ settings: String..., scenario: String = "prefork", environment: [String: String] = [:], deadline: Double = 60
    ) throws {
        running = try Running(
            builtProgram("scenarios"), [scenario] + settings, environment: environment, deadline: deadline)
    }

    /// Reads on until all workers serve.
    @discardableResult
    func serving() throws -> Pool {
        let line = try event("serving on ")
        address = String(line.dropFirst("serving on ".count))
        (hasServed, fewestReady, mostActive) = (true, ready.count, active.count)
        return self
    }

    /// Reads on in what the pool says, until a line has all of `texts` in it.
    @discardableResult
    func event(_ texts: String...) throws -> String {
        while let line = try running.line() {
            note(line)
            if texts.allSatisfy(line.contains) { return line }
        }
        throw Failure("the pool never said \(texts):\n\(running.output)\n\(running.errors)")
    }

    private func note(_ line: String) {
        let words = line.split(separator: " ")
        guard words.count > 2, words[0] == "worker", let pid = pid_t(words[1].filter(\.isNumber)) else { return }
        switch words[2] {
        case "forked,": active.insert(pid)
        case "ready,": ready.insert(pid)
        default:
            ready.remove(pid)
            active.remove(pid)
        }
        if hasServed { fewestReady = min(fewestReady, ready.count) }
        mostActive = max(mostActive, active.count)
    }

    /// Reads on until there are so many workers ready.
    func waitForReady(_ count: Int) throws {
        while ready.count != count { try event("worker ") }
    }

    func client() throws -> Client { try Client(address) }

    func signal(_ number: Int32) { running.send(number) }

    /// Waits for the end, which must be a clean one that leaves nothing alive.
    func expectCleanEnd() throws {
        let status = try running.wait()
        #expect(status == 0, "ended with \(status): \(running.errors)")
        #expect(running.output.hasSuffix("workers left: 0\nok\n"))
        try running.expectNothingAlive()
    }

    /// Stops it as a service manager would.
    func stop() throws {
        signal(SIGTERM)
        try expectCleanEnd()
    }
}

/// A file that tells a body what to do as long as it is there.
final class Sign {
    private let directory: TemporaryDirectory
    var path: String { directory.path + "/sign" }

    init() throws { directory = try TemporaryDirectory() }

    func put() { close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0o644)) }
    func remove() { unlink(path) }
}
