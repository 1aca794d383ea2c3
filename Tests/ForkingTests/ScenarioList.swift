// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

/// One of Tests/Scenarios, as `scenarios --list` tells of it.
struct Scenario: Sendable, CustomTestStringConvertible {
    let group: String
    let name: String
    let title: String

    var testDescription: String { "\(name): \(title)" }

    /// All there are, asked for once.
    static let all = Result<[Scenario], any Error> {
        let running = try Running(builtProgram("scenarios"), ["--list"])
        guard try running.wait() == 0 else { throw Failure("no list of scenarios: \(running.errors)") }
        return running.output.split(separator: "\n").map { line in
            let parts = line.split(separator: "\t").map(String.init)
            return Scenario(group: parts[0], name: parts[1], title: parts[2])
        }
    }

    /// Those of a group; a test that asks for one that is not there fails.
    static func of(_ group: String) throws -> [Scenario] {
        let found = try all.get().filter { $0.group == group }
        guard !found.isEmpty else { throw Failure("there are no scenarios of the group '\(group)'") }
        return found
    }

    /// Runs it in a process of its own, after which nothing may be alive.
    ///
    /// - Parameter warmChildren: how many its zygotes have, unless it says that itself.
    func pass(warmChildren: Int = 0, deadline: Double = 180) throws {
        let environment = warmChildren == 0 ? [:] : ["FORKING_SCENARIO_WARM": "\(warmChildren)"]
        let running = try Running(builtProgram("scenarios"), [name], environment: environment, deadline: deadline)
        let status = try running.wait()
        #expect(status == 0, "\(name) ended with \(status): \(running.errors)")
        #expect(running.output.hasSuffix("ok\n"))
        try running.expectNothingAlive()
    }
}
