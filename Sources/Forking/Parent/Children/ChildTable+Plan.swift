// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// What a child does before its body, or before execve.
extension ChildTable {
    /// Calls `fork` with the plan for the child in `slot`. It allocates nothing, and fills in the plan in place,
    /// because each idle child has a copy of what is written to the stack here.
    func withPlan(_ options: ChildOptions, _ slot: Int, _ fork: (inout forkcore_child_plan) -> Int32) -> Int32 {
        var plan = forkcore_child_plan()
        fill(&plan, options, slot)
        guard let credentials = options.credentials else { return fork(&plan) }
        return credentials.withC {
            plan.confinement.credentials = $0
            return fork(&plan)
        }
    }

    private func fill(_ plan: inout forkcore_child_plan, _ options: ChildOptions, _ slot: Int) {
        let containment = options.containment ?? .group
        let taken = SignalSet(rawValue: ParentOnly.blockedSignals)
        let defaults = options.printsCrashBacktrace ? taken : taken.union(Signal.crashes)
        plan.defaults = defaults.intersection(handled).rawValue
        plan.heedless = options.heedless.rawValue
        if let marks { plan.mark = forkcore_marks_occupy(marks, slot) }
        plan.own_group = containment >= .group
        plan.own_session = containment >= .session
        plan.dies_with_parent = options.diesWithParent
        if containment == .descendants { plan.watcher = orphans?.watching }
        plan.watched_as = slot
        plan.confinement = options.confinement
    }
}
