// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// A slot's life: reserve → commit → release, or vacate.
extension ChildTable {
    func reserve() throws(ForkingError) -> Int {
        guard !isFull else { throw .full(limit: maxChildren) }
        orphans?.fate = .running
        defer { checkInvariants() }
        return slots.take()
    }

    func commit(_ slot: Int, _ child: Child) {
        // The kernel does not reuse the pid of an unreaped child. If the table still has this pid, other code has
        // reaped that child.
        if let lost = slots.slot(of: child.pid) { release(lost, forkcore_ending(FORKCORE_LOST)) }
        slots.fill(slot, with: child)
        if let orphans {
            orphans.note(child.pid, in: slot)
            source.scheduleSweep()  // most daemons leave right after their start
        }
        child.deadline.map(noteDeadline)
        checkInvariants()
    }

    func release(_ slot: Int, _ ending: forkcore_ending) {
        let child = slots[slot]
        if child.pidfd >= 0 { source.unwatch(child.pidfd) }
        if child.hold == .told { heldCount -= 1 }
        let execError = slots.execError(slot).pointee
        vacate(slot)
        closeSpawnedDescriptors()
        ended.append(EndedChild(child: child, ending: ending, execError: execError, at: .now))
        noteEnd(of: child)
    }

    /// The channel of the call that a zygote's child serves, or -1.
    func channel(of pid: ProcessID) -> Int32 { slots.slot(of: pid).map { slots[$0].channel } ?? -1 }

    func keep(_ channel: Int32, for pid: ProcessID) {
        if let slot = slots.slot(of: pid) { slots[slot].channel = channel }
    }

    func vacate(_ slot: Int) {
        if let marks { forkcore_marks_vacate(marks, slot) }
        orphans?.note(0, in: slot)
        slots.release(slot)
        checkInvariants()
    }
}

extension forkcore_ending {
    fileprivate init(_ state: forkcore_state) {
        self.init()
        self.state = state
    }
}
