// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// Held children, whose end causes no event: those that another process traces, because only the tracer can wait for
/// them, and those that do not end after SIGKILL. While there are any, the table tries at intervals to reap them, and
/// it reports them.
extension ChildTable {
    /// How long a child may be held before that is reported: strace(1), too, takes a moment.
    private static let interval = Duration.seconds(1)

    /// Whether no child and no leftover is alive. A held child has ended.
    var isLifeless: Bool {
        if count == heldCount { adopt() }
        return count == heldCount
    }

    /// Reaps a child whose pidfd is readable. If it cannot be reaped, it is not watched any more, because its pidfd
    /// would stay readable.
    func reap(ready slot: Int) {
        guard slots.isTaken(slot), slots[slot].pid != 0, !reap(slot) else { return }
        source.quitWatching(slots[slot].pidfd)
        hold(slot)
    }

    private func hold(_ slot: Int) {
        if slots[slot].hold == .none { slots[slot].hold = .seen }
        ask(at: .now + Self.interval)
    }

    /// Finds ended children for which no SIGCHLD came: the kernel sends it to the tracer.
    func lookForHeld() {
        guard let marks else { return }
        forEachChild { slot, child in
            guard child.hold == .none, !forkcore_marks_holds(marks, slot, child.pid) else { return }
            if hasEnded(child) { hold(slot) }
        }
    }

    private func hasEnded(_ child: Child) -> Bool {
        var hasEnded = false
        return forkcore_has_ended(child.pid, &hasEnded) == 0 && hasEnded
    }

    /// Tries to reap the children whose end may cause no event.
    func askForHeld(_ now: Instant) {
        askAt = nil
        _ = source.reapStrangers()  // a thread that this process traces keeps its own from being reaped
        forEachChild { slot, child in
            guard child.hold != .none || child.isKilled, !reap(slot) else { return }
            ask(at: now + Self.interval)
            switch child.hold {
            case .none: if hasEnded(child) { slots[slot].hold = .seen }
            case .seen:
                slots[slot].hold = .told
                heldCount += 1
                note(.held(child.pid, peer: child.peer))
            case .told: break
            }
        }
    }

    private func ask(at time: Instant) {
        if let askAt, askAt <= time { return }
        askAt = time
        source.wake(at: time)
    }

    /// Called after a signal was sent to a child, or was refused (EPERM).
    func noteSignal(_ signal: Signal, to slot: Int, refused: Bool) {
        if refused, !slots[slot].isBeyondUs {
            slots[slot].isBeyondUs = true
            note(.notPermitted(slots[slot].pid, peer: slots[slot].peer))
        }
        guard signal == .kill else { return }
        slots[slot].isKilled = true
        // A held child's tracer may be in the same group, and end with it.
        ask(at: .now + (slots[slot].hold == .none ? Self.interval : .milliseconds(20)))
    }

    private func note(_ trouble: ChildTrouble) {
        troubles.append(trouble)
        source.wake(at: .now)
    }
}
