// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@Suite("forkserve echo")
struct EchoTests {
    @Test("sends lines back until the client closes")
    func lines() throws {
        let (server, address) = try forkserve(["echo", "127.0.0.1:0"])
        let client = try Client(address)
        try client.echo("hello")
        try client.echo("again")
        client.finishSending()
        #expect(try client.receiveAll() == "")
        try stop(server)
    }
}
