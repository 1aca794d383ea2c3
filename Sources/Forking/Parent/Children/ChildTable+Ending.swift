// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// Ends children in steps: running → terminating → killed, each with its deadline.
extension ChildTable {
    /// Sends `signal` to a child, or with `group` to its process group. kill(2). Parent.
    ///
    /// - Returns: false if `pid` is not a live child of this table; nothing is sent then.
    @discardableResult
    public func signal(_ signal: Signal, to pid: ProcessID, group: Bool = false) -> Bool {
        requireParent()
        return slots.slot(of: pid).map { self.signal(signal, at: $0, group: group) } ?? false
    }

    /// Sends `signal` to every child, or with `group` to their process groups. kill(2). Parent.
    public func signalAll(_ signal: Signal, group: Bool = false) {
        requireParent()
        forEachChild { slot, _ in self.signal(signal, at: slot, group: group) }
    }

    /// Sends SIGTERM to a child and its process group, and SIGKILL after `killTimeout`, which is 3 seconds by default.
    /// Parent.
    ///
    /// - Returns: false if `pid` is not a live child of this table; nothing is sent then.
    @discardableResult
    public func terminate(_ pid: ProcessID) -> Bool {
        requireParent()
        guard let slot = slots.slot(of: pid) else { return false }
        terminate(at: slot)
        return true
    }

    /// Sends SIGTERM to every child and its process group, and SIGKILL after `killTimeout`. Parent.
    public func terminateAll() {
        requireParent()
        orphans?.fate = .terminating
        adopt()
        forEachChild { slot, _ in terminate(at: slot, withAll: true) }
    }

    private func terminate(at slot: Int, withAll: Bool = false) {
        if slots[slot].stage == .running { advance(slot, because: .stopped, at: .now, withAll: withAll) }
    }

    /// Sends SIGKILL to every child and its process group. Parent.
    public func killAll() {
        requireParent()
        orphans?.fate = .killed
        adopt()
        forEachChild { slot, _ in kill(at: slot) }
    }

    func kill(at slot: Int) {
        guard slots[slot].stage != .killed else { return }
        slots[slot].stage = .terminating
        advance(slot, because: .stopped, at: .now)
    }

    /// Moves a child to its next stage, and sends the signal: SIGTERM, then SIGKILL.
    ///
    /// - Parameter withAll: whether all other children move with it.
    func advance(_ slot: Int, because reason: ChildExit.Reason, at now: Instant, withAll: Bool = false) {
        var child = slots[slot]
        if child.reason == .own { child.reason = reason }
        let signals: [Signal]
        switch child.stage {
        case .running:
            child.stage = .terminating
            child.deadline = now + child.killTimeout
            signals = [.terminate, .continue]  // a stopped child does not handle SIGTERM
        case .terminating:
            child.stage = .killed
            child.deadline = nil
            signals = [.kill]
        case .killed:
            return
        }
        slots[slot] = child
        child.deadline.map(noteDeadline)
        guard !isReachedByItsLeader(child, at: now, withAll: withAll) else { return }
        // If other code has reaped the child, the first signal releases the slot, which is then still empty.
        for signal in signals where slots[slot].pid == child.pid {
            orphans?.signal(signal, toDescendantsOf: child.pid)
            self.signal(signal, at: slot, group: true)
        }
        checkInvariants()
    }

    /// Whether a leftover is still in the process group of a child, which gets SIGTERM as a whole. The leftover must
    /// not get it twice, because a second SIGTERM can have another meaning. A second SIGKILL cannot.
    private func isReachedByItsLeader(_ child: Child, at now: Instant, withAll: Bool) -> Bool {
        guard child.isLeftover, child.stage == .terminating, let slot = slots.slot(of: getpgid(child.pid)) else {
            return false
        }
        let leader = slots[slot]
        guard leader.pid != child.pid, leader.hasGroup else { return false }
        return withAll || leader.stage == child.stage || leader.deadline.map { $0 <= now } ?? false
    }

    /// The only function that sends a signal to a child.
    @discardableResult
    func signal(_ signal: Signal, at slot: Int, group: Bool) -> Bool {
        let child = slots[slot]
        let code = forkcore_kill(child.pid, group && child.hasGroup, signal.rawValue)
        if code == ECHILD {
            if reap(slot) { source.wake(at: .now) }  // other code has reaped it
        } else {
            noteSignal(signal, to: slot, refused: code == EPERM)
        }
        return code == 0
    }

    /// Tries to reap each child, whether or not its end was announced. A caller that waits for all children must not
    /// depend on SIGCHLD: other code may have taken it, or discarded it by setting its disposition.
    func sweep() {
        requireParent()
        reapAll()
        source.wake(at: .now)  // to report what was found
    }

    /// Waits until no child is left, but at most for `deadline`; nil waits forever. Meanwhile children are reaped and
    /// timeouts enforced; otherwise no signal is sent. Parent.
    ///
    /// - Returns: whether no child is left.
    /// - Throws: `ForkingError.Code.system` if polling fails.
    public func wait(atMost deadline: Duration? = nil) throws(ForkingError) -> Bool {
        let end = deadline.map { Instant.now + $0 }
        sweep()
        collect()
        while !isDeserted {
            let rest = end.map { $0 - Instant.now }
            if let rest, rest <= .zero { return false }
            _ = try waitUntilReadable(source.descriptor, atMost: rest)
            collect()
        }
        return true
    }

    // MARK: Time

    func noteDeadline(_ deadline: Instant) {
        guard nextDeadline.map({ deadline < $0 }) ?? true else { return }
        nextDeadline = deadline
        source.wake(at: deadline)
    }

    /// Handles the deadlines that have passed. Returns when to look again.
    func fireTimers(_ now: Instant) -> Instant? {
        if let due = spawnedCheckAt, due <= now {
            spawnedCheckAt = nil
            closeSpawnedDescriptors()
        }
        if let next = nextDeadline, next <= now { endOverdue(now) }
        if let due = askAt, due <= now { askForHeld(now) }
        return earlier(earlier(nextDeadline, spawnedCheckAt), askAt)
    }

    /// Ends the children whose deadline has passed. It scans all children, but only when the earliest known deadline
    /// has passed: once for each timeout, not for each end.
    private func endOverdue(_ now: Instant) {
        nextDeadline = nil
        forEachChild { slot, child in
            guard let deadline = child.deadline else { return }
            if child.stage == .running, deadline <= now, let later = timesOut?(child), later > now {
                slots[slot].deadline = later
                noteDeadline(later)
            } else if deadline <= now {
                advance(slot, because: .timeout, at: now)
            } else {
                noteDeadline(deadline)
            }
        }
    }
}
