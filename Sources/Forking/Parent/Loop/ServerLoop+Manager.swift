// SPDX-License-Identifier: Apache-2.0

/// What a service manager is told: sd_notify(3). Without one, nothing of it costs a system call.
extension ServerLoop {
    /// The server serves; the one before it may go.
    func noteServing() {
        life.becomeReady(hasPredecessor: Predecessor.isThere)
        reports?.say("READY=1", .now)
        Predecessor.tellReady()
        takeControlOver()
    }

    /// Tells of a reload, or of its end.
    func tellManager(_ text: String) { reports?.say(text, .now) }

    /// The first step ends the service, and each says how long all that is to come may take: the manager would
    /// otherwise not wait for longer than it was set to.
    func announce(_ stop: Lifecycle.Stop) {
        guard reports != nil, life.standing != .replaced else { return }
        var lines: [String] = []
        if stop.actions.contains(.announceEnd) { lines.append("STOPPING=1") }
        if let rest = stop.rest {
            lines.append("EXTEND_TIMEOUT_USEC=\((Instant(nanoseconds: 0) + rest + .seconds(1)).nanoseconds / 1000)")
        }
        reports?.say(lines.joined(separator: "\n"), .now)
    }

    /// Once in each turn: tells what time has come for. For the parameters see `ManagerReports.fireTimers`.
    func report(_ state: @autoclosure () -> Int?, _ line: () -> String) {
        guard reports != nil else { return }
        reports?.fireTimers(.now, state(), line)
        if life.standing == .replaced, reports?.isDone == true {
            successor?.tellMain()
            reports = nil
        }
    }
}
