// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// What comes of SIGUSR2, for the server to act on and to tell.
enum UpgradeEvent {
    case started(ProcessID)
    case failed(String)
    /// The new program serves, and is nobody's child here any more.
    case serves(ProcessID)
    /// It has ended while this one drains.
    case lost(ProcessID)

    static func told(ofLost pid: ProcessID) -> String { "the new program, \(pid), has ended while this one drains" }
}

/// A new program on the same sockets, from SIGUSR2 on: it is executed, says when it serves, and only then does this one
/// drain. A bad one changes nothing. Parent.
///
/// A go-between has it as its child, and ends as it does, so that its end is told like any child's. Once it serves, the
/// go-between leaves: the new program is then a child of whoever takes orphans, such as the service manager, who sees
/// how the process ends that it is told is the main one. Here it is watched by a pidfd.
final class Successor {
    private enum Stage {
        /// The go-between has not said yet whom it has started.
        case beginning
        /// To say by then that it serves.
        case starting(until: Instant)
        /// It serves; the go-between leaves.
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
    /// Closed, it lets the go-between leave.
    private var lead: ParentDescriptor?
    /// It says on this that it serves, and hears that it is the main process.
    private(set) var readinessSocket: ParentDescriptor?
    private var pidfd: ParentDescriptor?
    /// Orphans would come here, and not to the service manager.
    private var wasSubreaper = false

    /// Starts it.
    ///
    /// - Parameter limit: how long it may take until it serves.
    init(
        _ executable: Executable, with sockets: [Handover.Socket], control: Int32?, variables: [String], limit: Duration
    ) throws(ForkingError) {
        self.limit = limit
        goBetweens = try ChildTable(maxChildren: 1, reaping: .pidfd)
        let readinessSocket = try DescriptorPair()
        let lead = try DescriptorPair()
        self.readinessSocket = ParentDescriptor(readinessSocket.ours.release())  // by which a pidfd comes
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

    /// What to poll: what it says, and its end or the go-between's; -1 for what is not waited for.
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

    /// What has happened, after something was to be read, or time has passed.
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
            readinessSocket = nil  // its end comes right after, and says more
            stage = .starting(until: min(until, now + .seconds(1)))
        }
        if let failure = failIfLeft() { return failure }
        guard until <= now else { return nil }
        let reason =
            readinessSocket == nil
            ? "it has closed its end of the socket without saying that it serves" : "it was not ready in time"
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

    /// The go-between has ended: so has the new program, or it is ended now.
    private func failIfLeft() -> UpgradeEvent? {
        goBetweens.collect()
        guard let goBetween else { return nil }
        abandon()
        return .failed(goBetween.told(of: "the new program", as: pid == 0 ? goBetween.pid : pid))
    }

    /// Ends it, unless it serves.
    func abandon() {
        guard isStarting else { return }
        // Whom the go-between has started is known at once, but for the moment that this takes.
        if pidfd == nil, let readinessSocket,
            (try? waitUntilReadable(readinessSocket.rawValue, atMost: .seconds(1))) == true
        {
            _ = begin(.now)
        }
        stage = .ended
        if let pidfd { _ = forkcore_pidfd_signal(pidfd.rawValue, SIGKILL) }
        // It is nobody's zombie, and in nobody's way.
        if (try? goBetweens.wait(atMost: .seconds(1))) != true { goBetweens.killAll() }
    }

    /// Tells it that it is the main process now.
    func tellMain() {
        if let readinessSocket { Handover.say(on: readinessSocket.rawValue) }
        readinessSocket = nil
    }

    private var hasEnded: Bool { isReadable(pidfd?.rawValue ?? -1) }
}
