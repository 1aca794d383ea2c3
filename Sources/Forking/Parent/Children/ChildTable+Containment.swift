// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// What children leave behind: processes that became children of this one when their parents ended. They are taken into
/// the table, and are children from then on: counted, timed, signalled and reaped as any.
///
/// The kernel tells nobody when a process gets another parent. So it is looked for, which is one system call: when a
/// child has ended and another might be one too many, at a stop and a status, and a moment after children began or
/// ended.
extension ChildTable {
    /// Prepares this process for children with these options: their descendants are looked after, and what takes
    /// address space is not done in each.
    func contain(_ options: ChildOptions) throws(ForkingError) {
        if options.limits.maxMemoryBytes != nil, !sharesOneArena {
            forkcore_share_one_arena()
            sharesOneArena = true
        }
        guard orphans == nil, options.containment == .descendants else { return }
        try source.hearOrphans()
        do throws(ForkingError) {
            orphans = try Orphans(options, capacity: slots.capacity)
        } catch {
            if error.isShortage { throw error }
            throw .invalid("containment is .descendants, which needs /proc and CONFIG_PROC_CHILDREN: \(error)")
        }
    }

    /// No child will come any more.
    func endContainment() { orphans?.dismissWatcher() }

    /// Takes in what was left behind.
    func adopt() {
        guard let orphans else { return }
        orphans.unseenEnds.value = 0
        orphans.forEachChild { pid in
            guard TableReference.having(pid) == nil, let process = orphans.look(at: pid) else { return }
            adopt(pid, process, orphans)
        }
    }

    /// A moment after children began or ended.
    func lookAfterOrphans() {
        orphans?.keepWatcher()
        adopt()
    }

    private func adopt(_ pid: ProcessID, _ process: forkcore_process_info, _ orphans: Orphans) {
        // There are more slots than the limit; should they be taken too, those who are left wait for one.
        guard slots.count < slots.capacity else { return }
        let slot = slots.take()
        guard let pidfd = try? source.watch(pid, slot) else { return slots.release(slot) }
        if let marks { _ = forkcore_marks_occupy(marks, slot) }
        let now = Instant.now
        var child = Child(pid, nil, now + .nanoseconds(-process.age_ns), orphans.options, pidfd: pidfd)
        child.isLeftover = true
        // One that never left the session is known for whose it is.
        if let leader = slots.slot(of: process.session) {
            child.peer = slots[leader].peer
            child.deadline = slots[leader].stage == .running ? slots[leader].deadline : child.deadline
        }
        commit(slot, child)
        if process.is_zombie {
            if reap(slot) { source.wake(at: now) }
        } else if orphans.wasTold(pid) {
            // It has had its SIGTERM, as a descendant; a second one can mean another thing.
            slots[slot].stage = .terminating
            slots[slot].reason = orphans.fate == .running ? .timeout : .stopped
            slots[slot].deadline = now + child.killTimeout
            noteDeadline(now + child.killTimeout)
            if orphans.fate == .killed { advance(slot, because: .stopped, at: now) }
        } else if orphans.fate != .running {
            end(slot, by: orphans.fate)
        }
    }

    private func end(_ slot: Int, by fate: Child.Stage) {
        if fate == .killed { slots[slot].stage = .terminating }
        advance(slot, because: .stopped, at: .now, withAll: true)
    }

    /// A child has ended, and may have left something behind.
    func noteEnd(of child: Child) {
        guard let orphans else { return }
        orphans.unseenEnds.value += 1
        guard child.stage != .running else { return }
        adopt()  // what it leaves is to end, too
        orphans.forget(child.pid)
    }

    /// Whether nobody is left, nor anybody left behind.
    var isDeserted: Bool {
        if slots.count == 0 { adopt() }
        return slots.count == 0
    }
}
