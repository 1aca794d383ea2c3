// SPDX-License-Identifier: Apache-2.0

import Testing

@Suite("Resource limits")
struct ResourceLimitTests {
    @Test("a forked child has its limits, and no other has") func forked() throws { try pass("limits-forked") }
    @Test("a program has its limits, and not its parent") func spawned() throws { try pass("limits-spawned") }
    @Test("values and options that make no sense are named") func refused() throws { try pass("limits-refused") }
    @Test("a server's child has its limits") func served() throws { try pass("limits-served") }
    @Test("a worker has its limits") func worker() throws { try pass("limits-worker") }
}
