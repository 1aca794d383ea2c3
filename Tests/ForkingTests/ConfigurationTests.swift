// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

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
            let text = "maxDatagramBytes is \(limit), and must be from 1 to 65535"
            #expect(said { $0.maxDatagramBytes = limit } == text)
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
