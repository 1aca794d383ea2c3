// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

/// A `scenarios serve` whose client the test is.
final class Served {
    let running: Running
    let address: String

    convenience init(_ settings: String..., environment: [String: String] = [:], deadline: Double = 180) throws {
        try self.init(settings, environment: environment, deadline: deadline)
    }

    init(_ settings: [String], environment: [String: String] = [:], deadline: Double = 180) throws {
        running = try Running(
            builtProgram("scenarios"), ["serve"] + settings, environment: environment, deadline: deadline)
        let prefix = "serving on "
        guard let line = try running.line(), line.hasPrefix(prefix) else {
            throw Failure("the server did not say where it serves: \(running.errors)")
        }
        address = String(line.dropFirst(prefix.count))
    }

    func client() throws -> Client { try Client(address) }

    /// A client that is being served: its child has answered.
    func servedClient() throws -> Client {
        let client = try client()
        try client.echo("hello")
        return client
    }

    /// Reads on in what the server says, until a line has all of `texts` in it.
    @discardableResult
    func event(_ texts: String...) throws -> String {
        while let line = try running.line() {
            if texts.allSatisfy(line.contains) { return line }
        }
        throw Failure("the server never said \(texts):\n\(running.output)\n\(running.errors)")
    }

    /// How the child of `client` ended, once it was reaped.
    @discardableResult
    func end(of client: Client) throws -> String { try event("peer 127.0.0.1:\(client.port): ", " after ") }

    func signal(_ number: Int32) { running.send(number) }

    /// The children that are not yet dead.
    var liveChildren: [pid_t] {
        running.descendants.filter { Process($0).map { $0.parent == running.pid && !$0.isZombie } ?? false }
    }

    /// Waits for the end, which must be a clean one that leaves nothing alive.
    func expectCleanEnd() throws {
        let status = try running.wait()
        #expect(status == 0, "ended with \(status): \(running.errors)")
        #expect(running.output.hasSuffix("ok\n"))
        try running.expectNothingAlive()
    }

    /// Stops it as a service manager would.
    func stop() throws {
        signal(SIGTERM)
        try expectCleanEnd()
    }
}

/// Whether a process is there, and not a zombie.
func isAlive(_ pid: pid_t) -> Bool { Process(pid).map { !$0.isZombie } ?? false }
