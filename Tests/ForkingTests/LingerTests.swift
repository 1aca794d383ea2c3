// SPDX-License-Identifier: Apache-2.0

import Testing

@Suite("An answer arrives whole, though its client goes on sending")
struct LingerTests {
    @Test(
        "from a child, a worker, a zygote's child",
        arguments: [
            "whole-answer-of-child", "whole-answer-of-worker", "whole-answer-of-zygote", "whole-answer-over-unix",
        ])
    func whole(_ name: String) throws { try pass(name) }

    @Test(
        "who sends without end, or does not read, is not waited for",
        arguments: ["talkative-client-is-left", "silent-client-is-left"])
    func left(_ name: String) throws { try pass(name) }
}
