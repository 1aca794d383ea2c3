// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Forking
import Glibc
import TestSupport

let serviceManagerScenarios = Group(
    "service-manager",
    Scenario("service-manager", "messages arrive, and who does not take them is not waited for", serviceManager)
)

/// A service manager's end, bound to `name`.
private final class ManagerSocket {
    let descriptor: Int32

    init(_ name: String) throws {
        descriptor = socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        let bound = try withAddress("unix:" + name) { bind(descriptor, $1, $2) }
        try expect(bound == 0, "bind \(name): \(String(cString: strerror(errno)))")
    }

    deinit { close(descriptor) }

    /// A message that is there; nil if none is.
    func next() -> String? {
        var bytes = [UInt8](repeating: 0, count: 4096)
        let count = recv(descriptor, &bytes, bytes.count, Int32(MSG_DONTWAIT))
        return count < 0 ? nil : String(decoding: bytes.prefix(count), as: UTF8.self)
    }
}

/// NOTIFY_SOCKET, as a service manager sets it.
private func serviceManager() throws {
    let names = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]
    let directory = try TemporaryDirectory()
    for name in [directory.path + "/notify", "@forking-\(getpid())"] {
        let socket = try ManagerSocket(name)
        for (variable, value) in zip(names, [name, "2000000", String(getpid())]) { setenv(variable, value, 1) }
        let manager = ServiceManager.take()
        try expect(names.allSatisfy { getenv($0) == nil }, "the variables are left")
        try expect(manager.watchdogInterval == .seconds(1), "\(manager.watchdogInterval as Any)")
        let again = ServiceManager.take()
        try expect(again.watchdogInterval == nil && again.notify("READY=1") == .never, "taken twice")

        let ready = "READY=1\nMAINPID=\(getpid())"
        try expect(manager.notify(ready) == .sent && manager.notify("STATUS=4 wörkers") == .sent, "not sent to \(name)")
        try expect(socket.next() == ready && socket.next() == "STATUS=4 wörkers", "other messages came")
        try expect(socket.next() == nil, "more came than was sent")

        var sent = 0
        // Until the queue is full; were it waited for, the deadline would pass.
        while manager.notify("WATCHDOG=1") == .sent {
            sent += 1
            try expect(sent < 1_000_000, "the queue does not fill")
        }
        try expect(manager.notify("WATCHDOG=1") == .later, "a full queue is not tried again")
        for _ in 0..<sent { try expect(socket.next() == "WATCHDOG=1", "a message is lost of \(sent)") }
        try expect(socket.next() == nil, "more came than was sent")
        try expect(manager.notify("STOPPING=1") == .sent, "it is not sent after the queue was full")
    }
    setenv("NOTIFY_SOCKET", directory.path + "/nobody", 1)
    let nobody = ServiceManager.take()
    // 100: a leak would run out of them.
    for _ in 0..<100 { try expect(nobody.notify("READY=1") == .never, "sent to nobody") }
}
