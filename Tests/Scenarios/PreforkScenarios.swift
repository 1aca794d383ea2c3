// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import TestSupport

let preforkScenarios: [String: @Sendable () throws -> Void] = [
    "bound-to-a-core": boundToACore,
]

/// To be started by taskset(1).
private func boundToACore() throws {
    try expect(UsableCores.count == 1, "there are \(UsableCores.count) cores")
}
