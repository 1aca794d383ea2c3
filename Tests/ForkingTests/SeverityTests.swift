// SPDX-License-Identifier: Apache-2.0

import SystemPackage
import Testing

@testable import Forking

@Suite("How bad an event is")
struct SeverityTests {
    private static func finished(_ failure: ForkingError?) -> Zygote.Event {
        .finished(
            Zygote.CallReport(
                handler: "h", failure: failure, duration: .seconds(1), waited: nil, forkTime: nil, usage: nil,
                work: Zygote.Work()))
    }

    @Test("an isolate's end is trouble unless the host has asked for it")
    func isolates() {
        func isTrouble(_ reason: Zygote.IsolateReport.Reason) -> Bool {
            Zygote.Event.isolateEnded(
                Zygote.IsolateReport(
                    handler: "h", isolate: 1, reason: reason, failure: nil, status: nil, usage: nil, hasServed: true,
                    calls: 1, duration: .seconds(1), pause: nil)
            ).isTrouble
        }
        for reason in [Zygote.IsolateReport.Reason.closed, .released, .recycled] { #expect(!isTrouble(reason)) }
        for reason in [Zygote.IsolateReport.Reason.killed, .ended, .startFailed, .zygoteLost] {
            #expect(isTrouble(reason))
        }
    }

    @Test("a call whose child crashed or could not be had is trouble; one that its caller or its handler ended is not")
    func calls() {
        let crash = ForkingError.ended(.signaled(.segmentationFault, dumpedCore: false))
        for failure in [
            crash, .ended(.exited(code: 1)), .deadlineExceeded(.seconds(1)),
            .system(call: "socketpair", .tooManyOpenFiles),
        ] {
            #expect(Self.finished(failure).isTrouble, "\(failure)")
        }
        // The one of a client that left first, as clients do.
        let pipe = ForkingError.ended(.signaled(.brokenPipe, dumpedCore: false))
        for failure in [
            nil, pipe, .cancelled, .full(children: 1, waiting: 0), .shutDown, .threw(type: "E", description: "no"),
        ] {
            #expect(!Self.finished(failure).isTrouble, "\(String(describing: failure))")
        }
    }
}
