// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// What a child is to do before its body, or before it is a program.
extension ChildTable {
    /// Calls `fork` with that, for the child in `slot`. Nothing is allocated in it.
    func withPlan(_ options: ChildOptions, _ slot: Int, _ fork: (inout forkcore_child_plan) -> Int32) -> Int32 {
        options.withIdentity { identity in
            leaving { closing, ours in
                var plan = plan(options, slot, identity, closing: closing, resetting: ours)
                return fork(&plan)
            }
        }
    }

    /// Calls `fork` with what a child leaves behind: descriptors to close, and signals that the library takes. Nothing is
    /// allocated in it.
    private func leaving(_ fork: (UnsafeBufferPointer<Int32>, SignalSet) -> Int32) -> Int32 {
        guard marks == nil else {
            left.refresh()
            return fork(UnsafeBufferPointer(left.descriptors), SignalSet(rawValue: left.blockedSignals))
        }
        // Where each child has a descriptor here, a copy would have to be made for each fork.
        let all = ParentOnly.current
        return all.descriptors.withUnsafeBufferPointer {
            fork($0, SignalSet(rawValue: all.blockedSignals))
        }
    }

    private func plan(
        _ options: ChildOptions, _ slot: Int, _ identity: forkcore_identity, closing: UnsafeBufferPointer<Int32>,
        resetting ours: SignalSet
    ) -> forkcore_child_plan {
        let containment = options.containment ?? .group
        let reset = (options.crashBacktraces ? ours : ours.union(Signal.crashes)).intersection(handled)
        return forkcore_child_plan(
            defaults: reset.rawValue, heedless: options.heedless.rawValue,
            closing: closing.baseAddress, closing_count: closing.count,
            keeping: nil, keeping_count: 0,
            mark: marks.map { forkcore_marks_occupy($0, slot) },
            own_group: containment >= .group, own_session: containment >= .session,
            dies_with_parent: options.diesWithParent,
            watcher: containment == .descendants ? orphans?.watching : nil, watched_as: slot,
            place: 0, closes_aside: false, takes_errors: false,
            identity: identity)
    }
}
