// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

/// Runs a scenario in a process of its own, after which nothing may be alive.
func pass(_ scenario: String, deadline: Double = 180) throws {
    let running = try Running(builtProgram("scenarios"), [scenario], deadline: deadline)
    let status = try running.wait()
    #expect(status == 0, "\(scenario) ended with \(status): \(running.errors)")
    #expect(running.output.hasSuffix("ok\n"))
    try running.expectNothingAlive()
}
