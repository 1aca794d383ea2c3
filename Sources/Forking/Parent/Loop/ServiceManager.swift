// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// The messages of a server to the service manager, and when to send them: sd_notify(3). They are sent only if there is
/// a manager, and only while it takes this process for the main one. Parent.
struct ManagerReports {
    private enum Role {
        /// The predecessor is still the main process: the manager would ignore this one.
        case successor
        case main
        /// A successor becomes the main process as soon as the manager was told.
        case leaving
    }

    private let manager: ServiceManager
    private var role: Role
    /// Messages that must not be lost, in this order. They are sent again if the manager's queue was full.
    private var owed: [String] = []
    private var retryPause = Pause()
    private var nextBeat: Instant?
    /// The last STATUS= line that was sent, and the state that it was made of.
    private var line = ""
    private var state: Int?
    private var saidAt = Instant(nanoseconds: 0)
    private var nextLine: Instant?

    /// Nil if there is no manager.
    init?(_ manager: ServiceManager, isSuccessor: Bool) {
        guard manager.isThere else { return nil }
        self.manager = manager
        role = isSuccessor ? .successor : .main
    }

    /// The environment variables that a successor needs.
    var environment: [String] { manager.environment }

    /// When the next message is due, although nothing else happens.
    var next: Instant? {
        switch role {
        case .successor: nil
        case .main: earlier(earlier(retryPause.until, nextBeat), nextLine)
        case .leaving: retryPause.until
        }
    }

    /// Whether all messages that must not be lost were sent.
    var isDone: Bool { owed.isEmpty }

    /// Sends a message that must not be lost, as soon as the manager takes it.
    mutating func say(_ text: String, _ now: Instant) {
        owed.append(text)
        sayOwed(now)
    }

    /// This process is the main one from now on.
    mutating func becomeMain(_ now: Instant) {
        guard role == .successor else { return }
        role = .main
        sayOwed(now)
    }

    /// Reports `pid` as the new main process. Nothing else is sent after that.
    mutating func handOver(to pid: ProcessID, endingReload: Bool, _ now: Instant) {
        // The manager has ignored what the new program sent before this. So the end of a reload is sent here.
        say("MAINPID=\(pid)\nWATCHDOG=1" + (endingReload ? "\nREADY=1" : ""), now)
        role = .leaving
    }

    private mutating func sayOwed(_ now: Instant) {
        guard role != .successor else { return }
        retryPause.end()
        while let text = owed.first {
            guard manager.notify(text) != .later else {
                retryPause.begin(until: now + Self.pause)
                return
            }
            owed.removeFirst()
        }
    }

    /// The pause before sending again when the manager's queue was full.
    private static let pause = Duration.milliseconds(50)
    private static let linesApart = Duration.seconds(1)

    /// Sends what is due: messages that were held back, WATCHDOG=1, and STATUS=, at most once a second.
    ///
    /// - Parameters:
    ///   - state: changes whenever the line changes; nil: the line may have changed anyway.
    ///   - line: the text for STATUS=.
    mutating func fireTimers(_ now: Instant, _ state: Int?, _ line: () -> String) {
        guard role != .successor else { return }
        if retryPause.isOver(at: now) { sayOwed(now) }
        guard role == .main else { return }
        if let interval = manager.watchdogInterval, nextBeat.map({ $0 <= now }) ?? true {
            nextBeat = now + (manager.notify("WATCHDOG=1") == .later ? min(Self.pause, interval) : interval)
        }
        if nextLine == nil, state == nil || state != self.state { nextLine = max(now, saidAt + Self.linesApart) }
        guard let due = nextLine, due <= now else { return }
        nextLine = nil
        saidAt = now
        let text = line()
        if text != self.line {
            // If this fails, `self.state` stays the old one, so that the line is sent later.
            guard manager.notify("STATUS=" + text) != .later else { return }
            self.line = text
        }
        self.state = state
    }
}

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
