// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage
import TestSupport
import Testing

@testable import Forking

@Suite("Clients that have vanished")
struct KeepAliveTests {
    /// Of what a listener accepts: on, idle, interval, count, user time-out.
    private func options(_ listener: borrowing Listener) throws -> [Int32] {
        let client = try Client(listener.address.description)
        defer { withExtendedLifetime(client) {} }
        var polled = pollfd(fd: listener.descriptor.rawValue, events: Int16(POLLIN), revents: 0)
        try expect(poll(&polled, 1, 20_000) == 1, "nobody came")
        guard let connection = try listener.accept() else { throw Failure("nobody came") }
        func value(_ level: Int32, _ option: Int32) -> Int32 {
            var (value, size) = (Int32(-1), socklen_t(4))
            getsockopt(connection.descriptor.rawValue, level, option, &value, &size)
            return value
        }
        let tcp = Int32(IPPROTO_TCP)
        let isOn = value(SOL_SOCKET, SO_KEEPALIVE)
        let times = isOn == 0 ? [] : [TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT].map { value(tcp, $0) }
        return [isOn] + times + [value(tcp, TCP_USER_TIMEOUT)]
    }

    @Test("are looked for by default, or as said, or not", arguments: ["127.0.0.1:0", "[::1]:0"])
    func inherited(_ text: String) throws {
        let address = try SocketAddress(parsing: text)
        try expectEqual(options(Listener(address)), [1, 60, 10, 6, 0])
        var wanted = Listener.Options()
        wanted.keepAlive = KeepAlive(idle: .seconds(30), interval: .seconds(5), count: 3)
        wanted.userTimeout = .seconds(90)
        try expectEqual(options(Listener(address, options: wanted)), [1, 30, 5, 3, 90_000])
        wanted.keepAlive = nil
        wanted.userTimeout = nil
        try expectEqual(options(Listener(address, options: wanted)), [0, 0])
    }

    @Test("are looked for on somebody else's socket only if so said")
    func adopted() throws {
        let listener = try Listener(adopting: FileDescriptor(rawValue: boundSocket("127.0.0.1:0")))
        try expectEqual(options(listener), [0, 0])
        try listener.setKeepAlive(KeepAlive(idle: .seconds(7)))
        try listener.setUserTimeout(.milliseconds(1500))
        try expectEqual(options(listener), [1, 7, 10, 6, 1500])
        try listener.setKeepAlive(nil)
        try listener.setUserTimeout(nil)
        try expectEqual(options(listener), [0, 0])
    }

    @Test("where there are none, nothing is set")
    func others() throws {
        for (text, datagram) in [("unix:@forking-keepalive-\(getpid())", false), ("127.0.0.1:0", true)] {
            let listener = try Listener(SocketAddress(parsing: text), datagram: datagram)
            try listener.setKeepAlive(KeepAlive())
            try listener.setUserTimeout(.seconds(1))
        }
    }

    @Test("are not looked for at times that cannot be")
    func refused() throws {
        let impossible = [
            KeepAlive(idle: .zero), KeepAlive(idle: .seconds(40_000)), KeepAlive(interval: .milliseconds(999)),
            KeepAlive(count: 0), KeepAlive(count: 128),
        ]
        for keepAlive in impossible {
            var options = Listener.Options()
            options.keepAlive = keepAlive
            let error = #expect(throws: ForkingError.self) {
                _ = try Listener(SocketAddress(parsing: "127.0.0.1:0"), options: options)
            }
            #expect("\(error!)".contains("must be from 1 to"), "\(error!)")
        }
        for timeout in [Duration.zero, .seconds(3_000_000)] {
            var options = Listener.Options()
            options.userTimeout = timeout
            #expect(throws: ForkingError.self) {
                _ = try Listener(SocketAddress(parsing: "127.0.0.1:0"), options: options)
            }
        }
    }
}
