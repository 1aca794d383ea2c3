// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// The service manager that started this process, if it expects messages: the protocol of sd_notify(3).
///
/// Parent. Each message opens a socket of its own, so that children inherit none.
package struct ServiceManager: Sendable {
    private let address: SocketAddress?

    /// How often to send `WATCHDOG=1`, by which the manager knows that this process is not stuck: half of the interval
    /// that it allows. Nil if it does not expect that. sd_watchdog_enabled(3).
    package let watchdogInterval: Duration?

    /// The variables, as `NAME=value`, that a successor of this process needs in its environment, whatever its pid.
    package let environment: [String]

    /// Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID, and removes them from the environment, so that no program
    /// started from here uses them. Call it once, before the first thread. Malformed values are ignored.
    package static func take() -> ServiceManager {
        let values = CStrings.managersVariables.map { name in getenv(name).map { String(cString: $0) } }
        for name in CStrings.managersVariables { unsetenv(name) }
        return ServiceManager(socket: values[0], silence: values[1], watched: values[2], pid: forkcore_process())
    }

    /// Whether there is a manager.
    var isThere: Bool { address != nil }

    init(socket: String?, silence: String?, watched: String?, pid: ProcessID) {
        // A path or an abstract name. `vsock:` addresses, for managers outside a virtual machine, are not supported.
        let address = socket.flatMap { name in
            name.hasPrefix("/") || name.hasPrefix("@") ? try? SocketAddress(unix: name) : nil
        }
        self.address = address
        guard let socket, address != nil else {
            (watchdogInterval, environment) = (nil, [])
            return
        }
        let microseconds = silence.flatMap { UInt64($0) } ?? 0  // the highest number means no limit
        guard microseconds > 0, microseconds < .max, watched == nil || watched == String(pid) else {
            (watchdogInterval, environment) = (nil, ["NOTIFY_SOCKET=\(socket)"])
            return
        }
        watchdogInterval = .microseconds(max(1, microseconds / 2))
        environment = ["NOTIFY_SOCKET=\(socket)", "WATCHDOG_USEC=\(microseconds)"]
    }

    /// The result of sending a message.
    package enum Outcome {
        case sent
        /// The manager's queue is full, or memory or descriptors are short here.
        case later
        /// There is no manager, or none listens any more.
        case never
    }

    /// Sends one message, such as `READY=1` or several such lines, without waiting.
    @discardableResult
    package func notify(_ text: String) -> Outcome {
        guard let address else { return .never }
        let type = SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue
        let socket = socket(AF_UNIX, Int32(type), 0)
        guard socket >= 0 else { return .later }
        defer { forkcore_close(socket) }
        var text = text
        let code = text.withUTF8 { bytes in
            address.withSockaddr { forkcore_send_datagram(socket, bytes.baseAddress, bytes.count, $0, $1, nil) }
        }
        switch code {
        case 0: return .sent
        case EAGAIN, ENOBUFS, ENOMEM: return .later
        default: return .never
        }
    }
}
