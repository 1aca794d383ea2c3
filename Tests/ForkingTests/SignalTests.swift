// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Signals")
struct SignalTests {
    @Test("a signal says its name, or its number")
    func signals() {
        #expect(Signal.terminate.description == "SIGTERM" && Signal.child.description == "SIGCHLD")
        #expect((1...31).allSatisfy { Signal(rawValue: $0).description.hasPrefix("SIG") })
        #expect(Set((1...31).map { Signal(rawValue: $0).description }).count == 31)
        for number in [0, -1, 32, 34, 64, 65, Int32.max] {
            #expect(Signal(rawValue: number).description == "signal \(number)")
        }
    }

    @Test("a set of signals has a bit for each")
    func sets() {
        #expect(SignalSet([.hangup]).rawValue == 1)
        #expect(SignalSet([Signal(rawValue: 64)]).rawValue == 1 << 63)
        #expect(SignalSet([.terminate, .hangup, .terminate]).rawValue == 1 << 14 | 1)
    }
}
