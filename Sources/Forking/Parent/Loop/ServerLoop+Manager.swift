// SPDX-License-Identifier: Apache-2.0

/// Messages to the service manager: sd_notify(3). Without a manager, they cost no system call.
extension ServerLoop {
    /// Called when the server serves: reports that to the manager and to the predecessor, which then drains.
    func noteServing() {
        life.becomeReady(hasPredecessor: Predecessor.isThere)
        reports?.say("READY=1", .now)
        Predecessor.tellReady()
        takeControlOver()
    }

    /// Sends the start or the end of a reload.
    func tellManager(_ text: String) { reports?.say(text, .now) }

    /// Reports a step of stopping. The first step sends STOPPING=1. Each sends how long the rest of the stop may take:
    /// otherwise the manager would wait only as long as it was configured to.
    func announce(_ stop: Lifecycle.Stop) {
        guard reports != nil, life.standing != .replaced else { return }
        var lines: [String] = []
        if stop.actions.contains(.announceEnd) { lines.append("STOPPING=1") }
        if let rest = stop.rest {
            lines.append("EXTEND_TIMEOUT_USEC=\((Instant(nanoseconds: 0) + rest + .seconds(1)).nanoseconds / 1000)")
        }
        reports?.say(lines.joined(separator: "\n"), .now)
    }

    /// Called in each turn: sends what is due. For the parameters see `ManagerReports.fireTimers`.
    func report(_ state: @autoclosure () -> Int?, _ line: () -> String) {
        guard reports != nil else { return }
        reports?.fireTimers(.now, state(), line)
        if life.standing == .replaced, reports?.isDone == true {
            successor?.tellMain()
            reports = nil
        }
    }
}
