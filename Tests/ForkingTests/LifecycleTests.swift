// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Lifecycle") struct LifecycleTests {
    private let start = Instant(nanoseconds: 1_000_000_000_000)

    private func serving(drain: Duration = .seconds(10), kill: Duration = .seconds(3)) -> Lifecycle {
        var life = Lifecycle(drainTimeout: drain, killTimeout: kill)
        life.run()
        life.becomeReady(hasPredecessor: false)
        return life
    }

    @Test("a drain runs into terminate and kill when nobody ends, and gives up on who does not die") func wholeWay() {
        var life = serving()
        #expect(
            life.stop(.drain, at: start)
                == .init(
                    step: .drain, actions: [.abandonSuccessor, .acceptWaiting, .stopAccepting, .announceEnd],
                    rest: .seconds(13)))
        #expect(life.state == .stopping(.drain, until: start + .seconds(10)) && life.deadline == start + .seconds(10))
        #expect(life.fireTimers(start + .seconds(9), isEmpty: false) == nil)
        let terminate = start + .seconds(10)
        #expect(
            life.fireTimers(terminate, isEmpty: false)
                == .stop(
                    .init(
                        step: .terminate, actions: [.abandonSuccessor, .stopAccepting, .terminateChildren],
                        rest: .seconds(3))))
        let kill = terminate + .seconds(3)
        #expect(life.fireTimers(terminate + .seconds(2), isEmpty: false) == nil)
        #expect(
            life.fireTimers(kill, isEmpty: false)
                == .stop(
                    .init(
                        step: .kill, actions: [.abandonSuccessor, .stopAccepting, .killChildren],
                        rest: Lifecycle.patienceWithKernel)))
        #expect(life.fireTimers(kill + Lifecycle.patienceWithKernel, isEmpty: false) == .abandonChildren)
        #expect(life.state == .stopped && life.deadline == nil)
    }

    @Test(
        "it has stopped once no child is left, whichever step it is at", arguments: [StopStep.drain, .terminate, .kill])
    func stopped(step: StopStep) {
        var life = serving()
        #expect(life.stop(step, at: start) != nil)
        for now in [start, start + .seconds(60)] {
            #expect(life.fireTimers(now, isEmpty: true) == nil)
            #expect(life.state == .stopped)
        }
    }

    @Test("while it serves, time and a lack of children change nothing") func serves() {
        var life = serving()
        #expect(life.fireTimers(start + .seconds(1000), isEmpty: true) == nil)
        #expect(life.state == .serving && life.deadline == nil)
    }

    @Test("a stop is never taken back: a step that was reached, or a softer one, is nothing")
    func neverBack() {
        let steps: [StopStep] = [.drain, .terminate, .kill]
        for reached in steps {
            for asked in steps {
                var life = serving()
                #expect(life.stop(reached, at: start) != nil)
                let before = life.state
                let stop = life.stop(asked, at: start + .seconds(1))
                #expect((stop == nil) == (asked <= reached), "\(reached), then \(asked)")
                if stop == nil { #expect(life.state == before) }
                #expect(stop?.actions.contains(.announceEnd) != true, "the end is announced once")
                #expect(stop?.actions.contains(.acceptWaiting) != true, "who waits is taken as the first step begins")
            }
            var over = serving()
            over.fail()
            #expect(over.stop(reached, at: start) == nil)
            #expect(over.state == .stopped)
        }
    }

    @Test("further signals go on to the next step") func signals() {
        var life = serving()
        for step in [StopStep.drain, .terminate, .kill] {
            #expect(life.nextStep == step)
            #expect(life.stop(life.nextStep, at: start)?.step == step)
        }
        #expect(life.nextStep == .kill)
        #expect(life.stop(life.nextStep, at: start) == nil)
    }

    @Test("without time to drain, those who wait are not taken") func noDrain() {
        var life = serving(drain: .zero, kill: .zero)
        let stop = life.stop(.drain, at: start)
        #expect(stop?.actions == [.abandonSuccessor, .stopAccepting, .announceEnd] && stop?.rest == .zero)
        #expect(life.fireTimers(start, isEmpty: false) != nil, "it goes on at once")
    }

    @Test("a server that does not wait for its children has stopped at once") func noWait() {
        var life = Lifecycle(drainTimeout: .seconds(10), killTimeout: .seconds(3), waitsForChildren: false)
        #expect(
            life.stop(.terminate, at: start)
                == .init(step: .terminate, actions: [.abandonSuccessor, .stopAccepting, .announceEnd], rest: nil))
        #expect(life.state == .stopped)
    }

    @Test("a program that was replaced leaves its successor alone, and those who wait to it") func replaced() {
        var life = serving()
        life.handOver()
        #expect(life.standing == .replaced && !life.canBeReplaced)
        #expect(life.stop(.drain, at: start)?.actions == [.stopAccepting, .announceEnd])
    }

    @Test("a program that takes another's place can be replaced once that one has confirmed it") func confirmation() {
        var life = Lifecycle(drainTimeout: .zero, killTimeout: .zero)
        let isConfirmed = life.confirm()
        #expect(!isConfirmed && !life.canBeReplaced && life.standing == .starting)
        life.becomeReady(hasPredecessor: true)
        #expect(life.standing == .unconfirmed && !life.canBeReplaced)
        life.becomeReady(hasPredecessor: false)
        #expect(life.standing == .unconfirmed, "it becomes ready once")
        let confirmed = [life.confirm(), life.confirm()]
        #expect(confirmed == [true, false] && life.standing == .main && life.canBeReplaced)
    }

    @Test("its loop is not run from within itself, nor after it was stopped") func running() throws {
        var life = Lifecycle(drainTimeout: .zero, killTimeout: .zero)
        try life.requireRunnable()
        life.run()
        #expect(throws: ForkingError.self) { try life.requireRunnable() }
        #expect(throws: ForkingError.self) { try life.requireNotRunning() }
        life.pause()
        try life.requireRunnable()
        _ = life.stop(.drain, at: start)
        #expect(throws: ForkingError.self) { try life.requireRunnable() }
        try life.requireNotRunning()
    }

    @Test("the time of a step begins when what it asks for has been done") func begun() {
        var life = serving()
        #expect(life.stop(.drain, at: start) != nil)
        life.begin(.drain, at: start + .seconds(2))
        #expect(life.deadline == start + .seconds(12))
        #expect(life.stop(.kill, at: start + .seconds(3)) != nil)
        life.begin(.drain, at: start + .seconds(4))
        #expect(life.deadline == start + .seconds(3) + Lifecycle.patienceWithKernel, "that step is over")
    }
}
