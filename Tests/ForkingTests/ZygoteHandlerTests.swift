// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Zygote: handlers")
struct ZygoteHandlerTests {
    @Test("a handler is a function, which a test calls as any other") func function() {
        func reversed(_ request: Zygote.Request) -> Zygote.Reply { Zygote.Reply(request.bytes.reversed()) }
        #expect(reversed(Zygote.Request([1, 2, 3])).bytes == [3, 2, 1])
    }

    @Test("each is found by its name, and nothing by another") func names() {
        let long = String(repeating: "x", count: 64)
        let all = ["a", "ab", "b", "\u{e4}", "a\0", long, String(long.dropLast())]
        var handlers = Zygote.Handlers()
        for name in all { handlers.answer(name) { Zygote.Reply($0.bytes) } }
        let names = HandlerNames(handlers.all)
        func number(of name: String) -> Int? { names.number(of: HandlerName(name)) }
        #expect(all.map(number) == Array(all.indices))
        #expect(["c", "abc", "", "x", "a\0\0"].allSatisfy { number(of: $0) == nil })
    }
}
