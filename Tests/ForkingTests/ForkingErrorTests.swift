// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("ForkingError")
struct ForkingErrorTests {
    @Test("an error is one line")
    func errors() {
        let errors: [(ForkingError, String)] = [
            (.system(call: "bind 127.0.0.1:80", .permissionDenied), "bind 127.0.0.1:80: Permission denied"),
            (.invalid("no"), "no"), (.full(limit: 3), "the child table is full: 3 of 3 children"),
            (.timedOut, "timed out waiting for the peer"),
            (.lineTooLong(limit: 9), "the peer sent a line of more than 9 bytes"),
            (.endOfStream(received: 1, expected: 2), "the peer closed after 1 of 2 bytes"),
        ]
        for (error, text) in errors { #expect(error.description == text) }
        #expect(ForkingError.threads(count: 5).description.hasPrefix("this process has 5 threads, "))
    }

    @Test("what a peer brings about is known as such")
    func peersDoing() {
        let peers: [ForkingError] = [
            .timedOut, .lineTooLong(limit: 1), .endOfStream(received: 1, expected: 2),
            .system(call: "recv", .connectionReset), .system(call: "send", .brokenPipe),
            .system(call: "recv", .timedOut),
        ]
        for error in peers { #expect(error.isPeersDoing, "\(error)") }
        for error in [ForkingError.system(call: "recv", .badFileDescriptor), .invalid("x"), .full(limit: 1)] {
            #expect(!error.isPeersDoing, "\(error)")
        }
    }
}
