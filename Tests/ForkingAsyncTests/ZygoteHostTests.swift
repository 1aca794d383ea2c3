// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

@Suite("Zygote in a host with threads")
struct ZygoteHostTests {
    @Test("its calls are answered")
    func calls() throws {
        let running = try Running(builtProgram("zygotehost"), [])
        #expect(try running.wait() == 0, "\(running.errors)")
        try running.expectNothingAlive()
    }
}
