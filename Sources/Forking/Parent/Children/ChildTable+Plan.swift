// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

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

extension ChildOptions {
    /// The C form of what confines a child, except for its credentials: see `Credentials.withC`.
    var confinement: forkcore_confinement {
        forkcore_confinement(
            credentials: nil, sets_oom_score: oomScore != nil, oom_score: Int32(clamping: oomScore ?? 0),
            limits: limits.inC)
    }

    /// Throws if a child cannot be confined as requested. Parent: tries it in a child.
    func tryConfinement() throws(ForkingError) {
        guard credentials != nil || oomScore != nil || limits != ResourceLimits() else { return }
        var call: UnsafePointer<CChar>?
        var confinement = confinement
        let code =
            credentials?.withC {
                confinement.credentials = $0
                return forkcore_try_confinement(&confinement, &call)
            } ?? forkcore_try_confinement(&confinement, &call)
        guard code != 0 else { return }
        let error = ForkingError.system(call: call.map { String(cString: $0) } ?? "clone", Errno(rawValue: code))
        guard code == EPERM || code == EACCES, credentials != nil || oomScore != nil else { throw error }
        throw .invalid("credentials or oomScore cannot be set, which takes root: \(error)")
    }
}
