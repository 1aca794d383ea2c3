// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("What one program hands over to the next")
struct HandoverTests {
    @Test("each socket's origin comes through as a flag and a name")
    func origins() {
        let origins: [Listener.Origin] = [
            .made, .manager(name: "x.socket"), .manager(name: ""), .manager(name: "made"), .descriptor(7),
            .descriptor(0),
        ]
        for origin in origins {
            let (flag, name) = (Handover.flag(of: origin), Handover.name(of: origin))
            #expect(Handover.origin(flag: flag, name: name) == origin)
        }
    }

    @Test("what no program of ours says is a service manager's")
    func unknown() {
        #expect(Handover.origin(flag: "?", name: "x") == .manager(name: "x"))
        #expect(Handover.origin(flag: "d", name: "x") == .manager(name: "x"))
    }

    @Test("the variable says what it was given", arguments: [[], ["0"], ["1", "d", "0"]] as [[Character]])
    func terms(flags: [Character]) {
        for control: Int32 in [-1, 5] {
            let terms = Handover.Terms(readinessSocket: 4, control: control, flags: flags)
            #expect(Handover.Terms(terms.text) == terms)
        }
    }

    @Test(
        "what makes no sense is none",
        arguments: [
            "", " ", "4", "4 -1", "4 -1 01 x", "x -1 01", "-4 -1 01", "4 x 01", "99999999999 -1 01", " 4 -1 01",
        ])
    func nonsense(text: String) { #expect(Handover.Terms(text) == nil) }
}
