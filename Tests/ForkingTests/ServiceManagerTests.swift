// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("The service manager")
struct ServiceManagerTests {
    private func manager(_ socket: String? = "/run/x", _ silence: String? = nil, _ watched: String? = nil)
        -> ServiceManager
    {
        ServiceManager(socket: socket, silence: silence, watched: watched, pid: 77)
    }

    @Test("WATCHDOG=1 is due in half of the time allowed, if this process is meant")
    func watchdog() {
        #expect(manager().watchdogInterval == nil)
        #expect(manager("/run/x", "3000000").watchdogInterval == .milliseconds(1500))
        #expect(manager("/run/x", "3000000", "77").watchdogInterval == .milliseconds(1500))
        #expect(manager("/run/x", "1").watchdogInterval == .microseconds(1))
        for watched in ["78", "", "7", "+77", "x"] {
            #expect(manager("/run/x", "3000000", watched).watchdogInterval == nil, "WATCHDOG_PID=\(watched)")
        }
        for silence in ["", "0", "-1", "x", "1 ", "18446744073709551615", "18446744073709551616"] {
            #expect(manager("/run/x", silence).watchdogInterval == nil, "WATCHDOG_USEC=\(silence)")
        }
        #expect(manager(nil, "3000000").watchdogInterval == nil)
    }

    @Test("an address of another kind is no manager")
    func addresses() {
        let long = "/" + String(repeating: "x", count: 200)
        for socket in [nil, "", "vsock:2:9999", "vsock-stream:2:1", "relative", "unix:/run/x", "@", long] {
            let manager = manager(socket, "3000000")
            #expect(manager.notify("READY=1") == .never && manager.watchdogInterval == nil && manager.environment == [])
        }
    }

    @Test("a successor is given what it needs")
    func successor() {
        #expect(manager().environment == ["NOTIFY_SOCKET=/run/x"])
        #expect(manager("@x", "5", "77").environment == ["NOTIFY_SOCKET=@x", "WATCHDOG_USEC=5"])
        #expect(manager("@x", "5", "78").environment == ["NOTIFY_SOCKET=@x"])
    }

    @Test("The service manager, from a process of its own", arguments: try Scenario.of("service-manager"))
    func scenario(_ scenario: Scenario) throws { try scenario.pass() }
}
