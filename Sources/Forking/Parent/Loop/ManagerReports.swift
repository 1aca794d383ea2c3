// SPDX-License-Identifier: Apache-2.0

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
