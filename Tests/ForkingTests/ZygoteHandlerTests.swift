// SPDX-License-Identifier: Apache-2.0

import Forking
import Testing

@Suite("Zygote: handlers")
struct ZygoteHandlerTests {
    @Test("a handler is a function, which a test calls as any other") func function() {
        func reversed(_ request: Zygote.Request) -> Zygote.Reply { Zygote.Reply(request.bytes.reversed()) }
        #expect(reversed(Zygote.Request([1, 2, 3])).bytes == [3, 2, 1])
    }
}
