// SPDX-License-Identifier: Apache-2.0

import Testing

@Suite("Descriptors attached to what is sent on Unix sockets")
struct RightsTests {
    @Test("where none is expected, none can be")
    func refused() throws { try pass("attached-refused") }

    @Test("a child cannot attach any to what it says to its parent")
    func byChild() throws { try pass("attached-by-child") }

    @Test(
        "where they can, their closing holds nobody up",
        arguments: ["refused-client", "queued-client", "held-client", "program", "datagram", "adopted"])
    func closing(_ what: String) throws { try pass("attached-to-\(what)") }
}
