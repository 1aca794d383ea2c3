// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

@Suite("CForkCore")
struct CForkCoreTests {
    @Test("its C tests pass, built by cc", .needs("cc", package: "gcc"))
    func cc() throws { try runTests(with: "cc") }

    @Test("its C tests pass, built by musl-gcc", .needs("musl-gcc", package: "musl-tools"))
    func musl() throws { try runTests(with: "musl-gcc") }

    private func runTests(with compiler: String, file: StaticString = #filePath) throws {
        let tests = "\(file)".split(separator: "/").dropLast(2).map { "/" + $0 }.joined()
        let running = try Running(tests + "/CForkCore/run", [compiler], deadline: 300)
        let status = try running.wait()
        #expect(status == 0, "\(running.output)\(running.errors)")
        #expect(running.output.hasSuffix(" passed, 0 failed\n"))
        try running.expectNothingAlive()
    }
}
