// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage
import TestSupport
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

        admission.keepTime(Instant(nanoseconds: 1_000 + Admission.pause.inNanoseconds - 1))
        #expect(admission.decide(isFull: false) == .wait)
        admission.keepTime(Instant(nanoseconds: 1_000 + Admission.pause.inNanoseconds))
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

@Suite("Time")
struct TimeTests {
    @Test("durations saturate instead of overflowing")
    func nanoseconds() {
        #expect(Duration.seconds(1).inNanoseconds == 1_000_000_000)
        #expect(Duration.nanoseconds(-3).inNanoseconds == -3)
        #expect((Duration.seconds(-1) + .nanoseconds(1)).inNanoseconds == -999_999_999)
        #expect(Duration(secondsComponent: 0, attosecondsComponent: 999_999_999).inNanoseconds == 0)
        #expect(Duration.seconds(Int64.max).inNanoseconds == .max)
        #expect(Duration.seconds(Int64.min).inNanoseconds == .min)
        #expect(Duration.seconds(9_223_372_037).inNanoseconds == .max)
        #expect(Duration.seconds(-9_223_372_037).inNanoseconds == .min)
        #expect(Duration.nanoseconds(Int64.max).inNanoseconds == .max)
        #expect(Duration.nanoseconds(Int64.min).inNanoseconds == .min)
        // More seconds than 64 bits can count.
        #expect(Duration.seconds(1e19).inNanoseconds == .max && Duration.seconds(-1e19).inNanoseconds == .min)
        #expect(Duration.seconds(1e19).inMicroseconds > 0 && Duration.seconds(1e20).inSeconds.hasSuffix(" s"))
        #expect(Instant(nanoseconds: 1) + .seconds(1e19) == Instant(nanoseconds: .max))
    }

    @Test("points in time saturate instead of overflowing")
    func instants() {
        let early = Instant(nanoseconds: 1), late = Instant(nanoseconds: .max)
        #expect(early + .seconds(1) == Instant(nanoseconds: 1_000_000_001))
        #expect(late + .seconds(1) == late)
        #expect(early + .seconds(Int64.max) == late)
        #expect(early + .seconds(Int64.min) < early)
        #expect(Instant(nanoseconds: .min) + .seconds(-1) == Instant(nanoseconds: .min))
        #expect(late - early == .nanoseconds(Int64.max - 1))
        #expect((early + .seconds(Int64.min)) - Instant(nanoseconds: 5) == .nanoseconds(Int64.min))
        #expect(late - Instant(nanoseconds: -5) == .nanoseconds(Int64.max))
        #expect(Instant.now <= Instant.now)
    }

    @Test("the earlier of two, where none means never")
    func theEarlier() {
        let one = Instant(nanoseconds: 1), two = Instant(nanoseconds: 2)
        #expect(earlier(one, two) == one && earlier(two, one) == one)
        #expect(earlier(nil, two) == two && earlier(one, nil) == one && earlier(nil, nil) == nil)
    }

    @Test("seconds are printed with three decimals")
    func printed() {
        #expect(Duration.milliseconds(12).inSeconds == "0.012 s")
        #expect(Duration.milliseconds(61_500).inSeconds == "61.500 s")
        #expect(Duration.zero.inSeconds == "0.000 s")
    }
}

@Suite("Descriptions")
struct DescriptionTests {
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

    @Test("an exit status is told in words")
    func statuses() {
        #expect(Forking.ExitStatus.exited(code: 0).isSuccess && !Forking.ExitStatus.exited(code: 1).isSuccess)
        #expect(
            !Forking.ExitStatus.signaled(.kill, dumpedCore: false).isSuccess && !Forking.ExitStatus.unknown.isSuccess)
        #expect(Forking.ExitStatus.exited(code: 7).description == "exited with status 7")
        #expect(Forking.ExitStatus.signaled(.segmentationFault, dumpedCore: false).description == "killed by SIGSEGV")
        #expect(Forking.ExitStatus.signaled(.abort, dumpedCore: true).description == "killed by SIGABRT (core dumped)")
        #expect(
            Forking.ExitStatus.unknown.description
                == "ended, and its exit status is unknown, as other code in this process waited for it")
    }

    private func exit(
        _ status: Forking.ExitStatus, _ reason: ChildExit.Reason = .own, peer: String? = "127.0.0.1:50000",
        refusal: Errno? = nil, isLeftover: Bool = false
    ) -> ChildExit {
        ChildExit(
            pid: 4711, peer: peer.map { try! SocketAddress(parsing: $0) }, status: status, reason: reason,
            duration: .milliseconds(12), isLeftover: isLeftover, usage: nil, refusal: refusal)
    }

    @Test("an end says who, whom it served, how and after how long")
    func exits() {
        let crash = Forking.ExitStatus.signaled(.illegalInstruction, dumpedCore: false)
        #expect(exit(crash).description == "child 4711, peer 127.0.0.1:50000: killed by SIGILL after 0.012 s")
        #expect(
            exit(crash, .timeout, peer: nil, isLeftover: true).description
                == "process 4711, which a child left: killed by SIGILL at its time limit after 0.012 s")
        #expect(exit(.exited(code: 3), peer: nil).description == "child 4711: exited with status 3 after 0.012 s")
        #expect(exit(crash, .timeout, peer: nil).description.contains("killed by SIGILL at its time limit after"))
        #expect(exit(crash, .stopped, peer: nil).description.contains("killed by SIGILL as the server stops after"))
        #expect(
            exit(.exited(code: 127), peer: nil, refusal: .noSuchFileOrDirectory).description
                == "child 4711: its program cannot be executed: No such file or directory")
        #expect(exit(.exited(code: 0)).isSuccess && !exit(.exited(code: 0), .timeout).isSuccess)
    }

    @Test("an event is one line, and trouble is known as such")
    func events() throws {
        let peer = try SocketAddress(parsing: "[::1]:5")
        let refusal = ForkingError.system(call: "fork", .resourceTemporarilyUnavailable)
        let crash = Forking.ExitStatus.signaled(.segmentationFault, dumpedCore: false)
        let pipe = Forking.ExitStatus.signaled(.brokenPipe, dumpedCore: false)
        let events: [(ForkingServer.Event, text: String, isTrouble: Bool)] = [
            (.serving([peer, peer]), "serving on [::1]:5, [::1]:5", false),
            (.forked(12, peer: peer), "child 12, peer [::1]:5: forked", false),
            (.refused(peer), "refused [::1]:5", false),
            (.verifyFailed(peer, refusal), "refused [::1]:5, as the verify hook failed: \(refusal)", true),
            (.forkFailed(peer, refusal), "client [::1]:5 was not served: \(refusal)", true),
            (.shortage(refusal), "new clients wait until this has passed: \(refusal)", true),
            (.stopping(.drain), "stopping: draining", false),
            (.stopping(.terminate), "stopping: terminating the children that are left", false),
            (.stopping(.kill), "stopping: killing the children that are left", false),
            (.abandoned([3, 4]), "these children are left alive, as they could not be ended: [3, 4]", true),
            (
                .trouble(.held(12, peer: peer)),
                "child 12, peer [::1]:5: has ended, but cannot be reaped, as a debugger or tracer holds it", true
            ),
            (
                .trouble(.notPermitted(12, peer: nil)),
                "child 12: cannot be ended, as it runs as another user: kill: Operation not permitted", true
            ),
            (.ended(exit(.exited(code: 0))), exit(.exited(code: 0)).description, false),
            (.ended(exit(.exited(code: 1))), exit(.exited(code: 1)).description, false),
            (.ended(exit(.exited(code: 2))), exit(.exited(code: 2)).description, true),
            (.ended(exit(.unknown)), exit(.unknown).description, true),
            (.ended(exit(crash)), exit(crash).description, true),
            (.ended(exit(crash, .timeout)), exit(crash, .timeout).description, true),
            (.ended(exit(crash, .stopped)), exit(crash, .stopped).description, false),
            // Its client left first.
            (.ended(exit(pipe)), exit(pipe).description, false),
        ]
        for (event, text, isTrouble) in events {
            #expect(event.description == text)
            #expect(event.isTrouble == isTrouble, "\(text)")
        }
    }

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

    @Test("the steps of stopping are ordered")
    func steps() { #expect(StopStep.drain < .terminate && .terminate < StopStep.kill) }
}

@Suite("Configuration")
struct ConfigurationTests {
    private func said(_ change: (inout ForkingServer.Configuration) -> Void) -> String? {
        var configuration = ForkingServer.Configuration()
        change(&configuration)
        return refusal { try configuration.checked() }
    }

    @Test("the defaults are those of Python's socketserver")
    func defaults() {
        let configuration = ForkingServer.Configuration()
        #expect(configuration.maxChildren == 40 && configuration.idleTimeout == .seconds(300))
        #expect(configuration.maxDatagramBytes == 8192 && configuration.waitsForChildren)
        #expect(said { _ in } == nil)
    }

    @Test("what cannot be is refused, and named")
    func refusals() {
        for limit in [0, -1, Int.min] {
            #expect(said { $0.maxChildren = limit } == "maxChildren is \(limit), and must be at least 1")
        }
        for limit in [0, -1, 65_536] {
            #expect(said { $0.maxDatagramBytes = limit } == "maxDatagramBytes is \(limit), and must be from 1 to 65535")
        }
        #expect(
            said { $0.drainTimeout = .seconds(-1) }?.hasPrefix("drainTimeout is -1.0 seconds, and cannot be negative")
                == true)
        #expect(said { $0.child.killTimeout = .seconds(-1) }?.hasPrefix("killTimeout is ") == true)
        for wrong in [Duration.zero, .seconds(-1)] {
            #expect(said { $0.idleTimeout = wrong }?.hasPrefix("idleTimeout is ") == true)
            #expect(said { $0.ioTimeout = wrong }?.hasPrefix("ioTimeout is ") == true)
            #expect(said { $0.child.timeout = wrong }?.hasPrefix("timeout is ") == true)
        }
        for signal in [Signal.kill, .stop, .child, Signal(rawValue: 0), Signal(rawValue: 65), Signal(rawValue: -1)] {
            #expect(said { $0.stopSignals = [.terminate, signal] }?.hasPrefix("\(signal) cannot be") == true)
        }
    }

    @Test("what can be is taken")
    func extremes() {
        #expect(said { $0.maxChildren = .max } == nil)
        #expect(
            said {
                $0.drainTimeout = .zero; $0.child.killTimeout = .zero
            } == nil)
        #expect(
            said {
                $0.drainTimeout = .seconds(Int64.max); $0.child.timeout = .seconds(Int64.max)
            } == nil)
        #expect(
            said {
                $0.idleTimeout = nil; $0.ioTimeout = .nanoseconds(1); $0.child.timeout = .nanoseconds(1)
            } == nil)
        #expect(said { $0.stopSignals = [] } == nil)
        #expect(
            said {
                $0.stopSignals = [Signal(rawValue: 64), .hangup]; $0.maxDatagramBytes = 65_535
            } == nil)
    }
}
