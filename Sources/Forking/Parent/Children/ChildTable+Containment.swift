// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// Leftovers: processes that children left behind, and that became children of this process when their parents ended.
/// The table adopts them, and then counts, times, signals and reaps them like any child.
///
/// The kernel does not report that a process has a new parent. So the table looks for leftovers, which is one system
/// call: when it may be full although a child has ended, at a stop, for a status, and a moment after children were made
/// or have ended.
extension ChildTable {
    /// Prepares this process for children with these options. Begins to track their descendants; and if their memory is
    /// limited, has malloc use a single arena, because each further one would reserve address space in each child.
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

    /// Ends the watcher, because no further child will be made.
    func endContainment() { orphans?.dismissWatcher() }

    /// Adopts the leftovers that are not in a table yet.
    func adopt() {
        guard let orphans else { return }
        orphans.unseenEnds.value = 0
        orphans.forEachChild { pid in
            guard TableReference.having(pid) == nil, let process = orphans.look(at: pid) else { return }
            adopt(pid, process, orphans)
        }
    }

    /// Called a moment after children were made or have ended.
    func lookAfterOrphans() {
        orphans?.keepWatcher()
        adopt()
    }

    private func adopt(_ pid: ProcessID, _ process: forkcore_process_info, _ orphans: Orphans) {
        // There are more slots than the limit. If all are taken, further leftovers wait for one.
        guard slots.count < slots.capacity else { return }
        let slot = slots.take()
        guard let pidfd = try? source.watch(pid, slot) else { return slots.release(slot) }
        if let marks { _ = forkcore_marks_occupy(marks, slot) }
        let now = Instant.now
        var child = Child(pid, nil, now + .nanoseconds(-process.age_ns), orphans.options, pidfd: pidfd)
        child.isLeftover = true
        // A leftover that is still in its child's session takes that child's peer and deadline.
        if let leader = slots.slot(of: process.session) {
            child.peer = slots[leader].peer
            child.deadline = slots[leader].stage == .running ? slots[leader].deadline : child.deadline
        }
        commit(slot, child)
        if process.is_zombie {
            if reap(slot) { source.wake(at: now) }
        } else if orphans.wasTold(pid) {
            // It got SIGTERM as a descendant; to a program a second one can have another meaning.
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

    /// Whether neither a child nor a leftover is left.
    var isDeserted: Bool {
        if slots.count == 0 { adopt() }
        return slots.count == 0
    }
}
