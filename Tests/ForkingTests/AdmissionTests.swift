// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Admission")
struct AdmissionTests {
    @Test("a client is admitted unless the table is full or something is short")
    func decisions() {
        var admission = Admission()
        let start = Instant(nanoseconds: 1_000)
        #expect(admission.decide(isFull: false) == .admit)
        #expect(admission.decide(isFull: true) == .wait)
        admission.noteShortage(at: start)
        #expect(admission.decide(isFull: false) == .wait)
        #expect(admission.shortage.until == start + Admission.pause)

        admission.fireTimers(Instant(nanoseconds: 1_000 + Admission.pause.inNanoseconds - 1))
        #expect(admission.decide(isFull: false) == .wait)
        admission.fireTimers(Instant(nanoseconds: 1_000 + Admission.pause.inNanoseconds))
        #expect(admission.decide(isFull: false) == .admit)
        #expect(admission.decide(isFull: true) == .wait)
        #expect(admission.shortage.until == nil)
    }

    @Test("while too many programs are on their way it is tried again soon, then later, and then it is a shortage")
    func crowd() {
        var admission = Admission()
        let start = Instant(nanoseconds: 1_000)
        for pause in [1, 2, 4, 8, 16, 32] {
            let isShortage = admission.noteCrowd(at: start)
            #expect(!isShortage && admission.shortage.until == start + .milliseconds(pause))
            #expect(admission.decide(isFull: false) == .wait)
        }
        for _ in 0..<2 {
            let isShortage = admission.noteCrowd(at: start)
            #expect(isShortage && admission.shortage.until == start + Admission.pause)
        }
        admission.noteClient()
        let isShortage = admission.noteCrowd(at: start)
        #expect(!isShortage && admission.shortage.until == start + .milliseconds(1))
    }

    @Test("a shortage that ends and begins again with each client is told once")
    func news() {
        var admission = Admission()
        let start = Instant(nanoseconds: 1_000)
        func isNew(after milliseconds: Int) -> Bool { admission.isNewShortage(at: start + .milliseconds(milliseconds)) }
        #expect(isNew(after: 0))
        #expect(!isNew(after: 60) && !isNew(after: 900) && !isNew(after: 1_800))
        #expect(isNew(after: 2_800) && !isNew(after: 2_801))
    }

    @Test("what is short is asked for again when a child has ended")
    func ends() {
        var admission = Admission()
        admission.noteShortage(at: Instant(nanoseconds: 1_000))
        admission.noteEnd()
        #expect(admission.decide(isFull: false) == .admit && admission.shortage.until == nil)
        #expect(admission.decide(isFull: true) == .wait)
    }

    @Test("while no child ends, there are at most 20 tries a second")
    func tries() { #expect(Admission.pause >= .milliseconds(50)) }
}
