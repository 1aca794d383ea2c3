// SPDX-License-Identifier: Apache-2.0

/// What a server tells the service manager, and when: sd_notify(3). Only where there is one, and only while this
/// process is the one that it knows as the main one. Parent.
struct ManagerReports {
    private enum Role {
        /// Another program's place is still to be taken: the manager would not listen.
        case successor
        case main
        /// A successor is to take this one's place, once the manager knows.
        case leaving
    }

    private let manager: ServiceManager
    private var role: Role
    /// To be said in this order, whatever else there is: tried again when the manager's queue was full.
    private var owed: [String] = []
    private var retryPause = Pause()
    private var nextBeat: Instant?
    /// The line that it knows, and what it was made of.
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

    /// What a successor needs.
    var environment: [String] { manager.environment }

    /// When there is something to say, though nothing happens.
    var next: Instant? {
        switch role {
        case .successor: nil
        case .main: earlier(earlier(retryPause.until, nextBeat), nextLine)
        case .leaving: retryPause.until
        }
    }

    /// Whether all that has to be said was.
    var isDone: Bool { owed.isEmpty }

    /// Says what must not be lost, as soon as somebody listens.
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

    /// The new main process is `pid`. Nothing but this is said any more.
    mutating func handOver(to pid: ProcessID, endingReload: Bool, _ now: Instant) {
        // What the new program said before this, the manager did not take from it: so the end of a reload comes from
        // here.
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

    /// Until a full queue is tried again.
    private static let pause = Duration.milliseconds(50)
    private static let linesApart = Duration.seconds(1)

    /// Says what time has come for: what is owed, that this process is not stuck, and how it does, at most once a
    /// second.
    ///
    /// - Parameters:
    ///   - state: is another whenever the line is another; nil: it can have changed anyway.
    ///   - line: how the server does, in words.
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
            guard manager.notify("STATUS=" + text) != .later else { return }  // the state stays another
            self.line = text
        }
        self.state = state
    }
}
