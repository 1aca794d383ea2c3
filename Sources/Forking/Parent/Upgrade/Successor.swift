// SPDX-License-Identifier: Apache-2.0
//
// Parent, the old program's.

import CForkCore
import Glibc
import SystemPackage

/// The progress of an upgrade, for the server to act on and to report.
enum UpgradeEvent {
    case started(ProcessID)
    case failed(String)
    /// The new program serves, and is not a child of the go-between any more.
    case serves(ProcessID)
    /// The new program has ended while this one drains.
    case lost(ProcessID)

    static func told(ofLost pid: ProcessID) -> String {
        "the new program, \(pid), ended while this one drains: no program accepts clients now"
    }
}

/// A new program on the same sockets, started by SIGUSR2. It reports when it serves, and only then does this one drain.
/// If it fails, nothing changes. Parent.
///
/// It is the child of a go-between, which ends in the same way as it does, so that its end is reported like any
/// child's. Once it serves, the go-between exits, and the new program becomes a child of the process that takes
/// orphans, such as the service manager: so the manager sees how its main process ends. This process watches it by a
/// pidfd.
final class Successor {
    private enum Stage {
        /// The go-between has not reported yet which process it has started.
        case beginning
        /// It must report by then that it serves.
        case starting(until: Instant)
        /// It serves; the go-between exits.
        case parting
        /// It serves, and this program drains.
        case serving
        case ended
    }

    private(set) var pid: ProcessID = 0
    private var stage = Stage.beginning
    private let limit: Duration
    private let goBetweens: ChildTable
    private var goBetween: ChildExit?
    /// Closing it lets the go-between exit.
    private var lead: ParentDescriptor?
    /// On this it reports that it serves, and is told that it is the main process.
    private(set) var readinessSocket: ParentDescriptor?
    private var pidfd: ParentDescriptor?
    /// Whether this process was a subreaper: then orphans would become its children, and not the service manager's.
    private var wasSubreaper = false

    /// Starts the new program.
    ///
    /// - Parameter limit: how long it may take until it serves.
    init(
        _ executable: Executable, with sockets: [Handover.Socket], control: Int32?, variables: [String], limit: Duration
    ) throws(ForkingError) {
        self.limit = limit
        goBetweens = try ChildTable(maxChildren: 1, reaping: .pidfd)
        let readinessSocket = try DescriptorPair()
        let lead = try DescriptorPair()
        self.readinessSocket = ParentDescriptor(readinessSocket.ours.release())  // a pidfd is received on it
        self.lead = ParentDescriptor(channel: lead.ours.release())
        goBetweens.onExit = { [weak self] in self?.goBetween = $0 }
        var options = ChildOptions()
        options.diesWithParent = false
        options.containment = Containment.none
        let handover = Handover(
            sockets: sockets, readinessSocket: readinessSocket.theirs.rawValue, control: control, variables: variables)
        let end = lead.theirs.rawValue
        try goBetweens.fork(options: options, keeping: sockets.map(\.descriptor) + (control.map { [$0] } ?? [])) {
            GoBetween.stand(for: handover, executable, until: end)
        }
    }

    /// The descriptors to poll: the readiness socket, and one that shows the end of the new program or of the
    /// go-between; -1: none.
    var descriptors: (Int32, Int32) {
        switch stage {
        case .beginning, .starting: (readinessSocket?.rawValue ?? -1, goBetweens.descriptor.rawValue)
        case .parting: (-1, goBetweens.descriptor.rawValue)
        case .serving: (-1, pidfd?.rawValue ?? -1)
        case .ended: (-1, -1)
        }
    }

    var deadline: Instant? {
        if case .starting(let until) = stage { until } else { nil }
    }

    var isStarting: Bool {
        switch stage {
        case .beginning, .starting, .parting: true
        case .serving, .ended: false
        }
    }

    /// Returns what has happened, after a descriptor was ready or time has passed.
    func look(_ now: Instant) -> UpgradeEvent? {
        switch stage {
        case .beginning: return begin(now)
        case .starting(let until): return start(until, now)
        case .parting: return part()
        case .serving:
            guard hasEnded else { return nil }
            stage = .ended
            return .lost(pid)
        case .ended: return nil
        }
    }

    private func begin(_ now: Instant) -> UpgradeEvent? {
        guard isReadable(readinessSocket?.rawValue ?? -1) else { return failIfLeft() }
        var (descriptor, number): (Int32, Int32) = (-1, 0)
        guard forkcore_take_over(readinessSocket!.rawValue, &descriptor, &number, MemoryLayout<Int32>.size) == 0 else {
            readinessSocket = nil  // the go-between has ended, or will
            return nil
        }
        pid = number
        pidfd = ParentDescriptor(descriptor)
        stage = .starting(until: now + limit)
        return .started(pid)
    }

    private func start(_ until: Instant, _ now: Instant) -> UpgradeEvent? {
        if isReadable(readinessSocket?.rawValue ?? -1) {
            if Handover.isSaid(on: readinessSocket!.rawValue) {
                stage = .parting
                wasSubreaper = forkcore_set_subreaper(false)
                lead = nil
                return part()
            }
            readinessSocket = nil  // its end follows, and shows the reason
            stage = .starting(until: min(until, now + .seconds(1)))
        }
        if let failure = failIfLeft() { return failure }
        guard until <= now else { return nil }
        let reason =
            readinessSocket == nil
            ? "it did not serve on these sockets (is it the same program?)" : "it was not ready in time"
        abandon()
        return .failed("the new program, \(pid): \(reason)")
    }

    private func part() -> UpgradeEvent? {
        goBetweens.collect()
        guard goBetween != nil else { return nil }
        if wasSubreaper { _ = forkcore_set_subreaper(true) }
        guard !hasEnded else { return failIfLeft() }
        stage = .serving
        return .serves(pid)
    }

    /// Called to check whether the go-between has ended. If so, the new program has ended, too, or is killed now.
    private func failIfLeft() -> UpgradeEvent? {
        goBetweens.collect()
        guard let goBetween else { return nil }
        abandon()
        return .failed(goBetween.told(of: "the new program", as: pid == 0 ? goBetween.pid : pid))
    }

    /// Kills the new program, unless it serves.
    func abandon() {
        guard isStarting else { return }
        // The go-between reports at once which process it has started. Wait for that, or it could not be killed.
        if pidfd == nil, let readinessSocket,
            (try? waitUntilReadable(readinessSocket.rawValue, atMost: .seconds(1))) == true
        {
            _ = begin(.now)
        }
        stage = .ended
        if let pidfd { _ = forkcore_pidfd_signal(pidfd.rawValue, SIGKILL) }
        // Reap the go-between, so that no zombie is left.
        if (try? goBetweens.wait(atMost: .seconds(1))) != true { goBetweens.killAll() }
    }

    /// Tells the new program that it is the main process now.
    func tellMain() {
        if let readinessSocket { Handover.say(on: readinessSocket.rawValue) }
        readinessSocket = nil
    }

    private var hasEnded: Bool { isReadable(pidfd?.rawValue ?? -1) }
}
