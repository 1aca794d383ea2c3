// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// Children whose end shows by no event: those that another process traces, as only that one can wait for them; and
/// those that were killed, and do not go. They are asked for now and then, as long as there are any, and told of.
extension ChildTable {
    /// How long a child may be held until that is told: strace(1) takes a moment, too.
    private static let interval = Duration.seconds(1)

    /// Whether nobody lives, nor was left behind: who is held has ended.
    var isLifeless: Bool {
        if count == heldCount { adopt() }
        return count == heldCount
    }

    /// The child's pidfd is readable. It is watched no more, if it cannot be reaped: it would be readable for ever.
    func reap(ready slot: Int) {
        guard slots.isTaken(slot), slots[slot].pid != 0, !reap(slot) else { return }
        source.quitWatching(slots[slot].pidfd)
        hold(slot)
    }

    private func hold(_ slot: Int) {
        if slots[slot].hold == .none { slots[slot].hold = .seen }
        ask(at: .now + Self.interval)
    }

    /// Finds those of whose end no SIGCHLD has told: the kernel sends it to the tracer.
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

    /// Asks for those who are known not to show by themselves.
    func askForHeld(_ now: Instant) {
        askAt = nil
        _ = source.reapStrangers()  // a thread that we trace keeps its process from being reaped
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

    /// A child was signalled, or refused to be.
    func noteSignal(_ signal: Signal, to slot: Int, refused: Bool) {
        if refused, !slots[slot].isBeyondUs {
            slots[slot].isBeyondUs = true
            note(.notPermitted(slots[slot].pid, peer: slots[slot].peer))
        }
        guard signal == .kill else { return }
        slots[slot].isKilled = true
        // The tracer of one that is held may be of its group, and go with it.
        ask(at: .now + (slots[slot].hold == .none ? Self.interval : .milliseconds(20)))
    }

    private func note(_ trouble: ChildTrouble) {
        troubles.append(trouble)
        source.wake(at: .now)
    }
}
