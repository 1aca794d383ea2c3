// SPDX-License-Identifier: Apache-2.0

/// What a service manager is told: sd_notify(3). Without one, nothing of it costs a system call.
extension ServerLoop {
    /// The server serves; the one before it may go.
    func noteServing() {
        hasServed = true
        reports?.say("READY=1", .now)
        Predecessor.tellReady()
        awaitsWord = Predecessor.isThere
        takeControlOver()
    }

    /// Tells of a reload, or of its end.
    func tellManager(_ text: String) { reports?.say(text, .now) }

    /// The first step ends the service, and each says how long all that is to come may take: the manager would otherwise
    /// not wait for longer than it was set to.
    func tellManager(of step: StopStep, drain: Duration, killAfter: Duration) {
        guard reports != nil, !isHandedOver else { return }
        let rest =
            switch step {
            case .drain: Instant(nanoseconds: 0) + drain + killAfter
            case .terminate: Instant(nanoseconds: 0) + killAfter
            case .kill: Instant(nanoseconds: 0) + Self.patienceWithTheKernel
            }
        let microseconds = (rest + .seconds(1)).nanoseconds / 1000
        reports?.say((phase == .serving ? "STOPPING=1\n" : "") + "EXTEND_TIMEOUT_USEC=\(microseconds)", .now)
    }

    /// Once in each turn: tells what time has come for. For the parameters see `ManagerReports.keepTime`.
    func report(_ state: @autoclosure () -> Int?, _ line: () -> String) {
        guard reports != nil else { return }
        reports?.keepTime(.now, state(), line)
        if isHandedOver, reports?.isDone == true {
            successor?.tellMain()
            reports = nil
        }
    }
}
