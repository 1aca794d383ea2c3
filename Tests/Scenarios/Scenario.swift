// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc

/// A test in a process of its own: `scenarios NAME`.
struct Scenario: Sendable {
    let name: String
    /// What is so if it passes. Nil where a test starts it itself, with arguments, clients or surroundings: such a one
    /// is not listed.
    let title: String?
    /// How many the process can have. They are few, so that a leak cannot hide.
    let descriptors: rlim_t
    let body: @Sendable () throws -> Void

    init(_ name: String, _ title: String, descriptors: rlim_t = 32, _ body: @escaping @Sendable () throws -> Void) {
        (self.name, self.title, self.descriptors, self.body) = (name, title, descriptors, body)
    }

    init(program name: String, descriptors: rlim_t = 32, _ body: @escaping @Sendable () throws -> Void) {
        (self.name, self.title, self.descriptors, self.body) = (name, nil, descriptors, body)
    }
}

/// The scenarios that one test runs, each as a case of its own.
struct Group: Sendable {
    let name: String
    let scenarios: [Scenario]

    init(_ name: String, _ scenarios: Scenario...) {
        (self.name, self.scenarios) = (name, scenarios)
    }
}

/// What is to pass in whichever way a table reaps.
func eachWay(_ body: @escaping @Sendable (ChildTable.Reaping) throws -> Void) -> @Sendable () throws -> Void {
    { for way in [ChildTable.Reaping.signal, .pidfd] { try body(way) } }
}
