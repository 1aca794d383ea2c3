// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("ForkingError")
struct ZygoteErrorTests {
    @Test("what a child says can neither end a line nor be of any length")
    func zygoteErrors() {
        let text = "a\nb\u{1b}[31m\u{202e}" + String(repeating: "x", count: 100_000)
        let errors: [ForkingError] = [
            .threw(type: text, description: text), .limitRefused(call: text, .noMemory),
            .noHandler(text, known: [text]),
        ]
        for error in errors {
            let told = error.description
            #expect(
                told.contains(#"a\x0ab\x1b[31m\u202e"#) && !told.contains("\n") && told.utf8.count < 2500,
                "\(told.prefix(200))")
        }
    }
}
