// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage
import Testing

@testable import Forking

@Suite("What stops a server")
struct StopSwitchTests {
    /// What a signal handler does.
    private func write(_ words: [UInt64], to stop: StopSwitch) {
        for var word in words { #expect(Glibc.write(stop.descriptor.rawValue, &word, 8) == 8) }
    }

    @Test("eight bytes ask for a step, and the hardest is taken")
    func words() throws {
        let stop = try StopSwitch()
        #expect(stop.take() == nil)
        // As docs/SIGNALS.md has them.
        for (word, step) in [(1, StopStep.drain), (1 << 24, .terminate), (1 << 48, .kill)] as [(UInt64, StopStep)] {
            #expect(StopSwitch.word(for: step) == word)
            write([word], to: stop)
            #expect(stop.take() == step)
            #expect(stop.take() == nil)
        }
        write(Array(repeating: 1, count: 1000), to: stop)
        #expect(stop.take() == .drain)
        write([1, 1 << 24, 1], to: stop)
        #expect(stop.take() == .terminate)
        write([1 << 24, 1 << 48], to: stop)
        stop.stop(.drain)
        #expect(stop.take() == .kill)
    }

    @Test("a signal that the server has a use for itself is refused as one of the hooks', with the reason")
    func hooks() throws {
        let hooks: [Signal: () -> Void] = [.hangup: {}]
        do {
            _ = try ServerLoop.signals(stopping: [.terminate], own: PreforkServer.ownSignals, hooks: hooks.keys)
            Issue.record("it was taken")
        } catch {
            #expect("\(error)".contains("SIGHUP has a meaning of its own") && !"\(error)".contains("stopSignals"))
        }
        do {
            _ = try ServerLoop.signals(stopping: [.hangup], own: [], hooks: hooks.keys)
            Issue.record("it was taken")
        } catch {
            #expect("\(error)".contains("SIGHUP is among both stopSignals and hooks.signals"))
        }
        let all = try ServerLoop.signals(stopping: [.terminate], own: [.userDefinedTwo], hooks: hooks.keys)
        #expect(all == [.terminate, .userDefinedTwo, .hangup])
    }

    @Test("the steps of stopping are ordered")
    func steps() { #expect(StopStep.drain < .terminate && .terminate < StopStep.kill) }
}
