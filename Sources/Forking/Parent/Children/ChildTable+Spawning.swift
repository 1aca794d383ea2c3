// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
public import SystemPackage

/// Children that execute programs.
extension ChildTable {
    /// How long to wait for spawned children to call execve, in nanoseconds. On a machine whose processors have twenty
    /// other threads to run, a second was too short.
    static let patienceWithPrograms: Int64 = 10_000_000_000

    /// Makes a child that executes `program`. The program has `descriptor` as descriptors 0 and 1, and inherits 2; all
    /// others are closed. clone(2), execve(2).
    ///
    /// The cost does not depend on the parent's memory. The child has an empty signal mask, and the same dispositions
    /// as with `fork`, except that SIGPIPE gets its default. Libc's fork handlers do not run.
    ///
    /// Parent: does not wait for execve, and the caller may close `descriptor` at once. If the program cannot be
    /// executed, the child exits with status 127, and `ChildExit.execError` has execve's errno. The table must reap by
    /// pidfd, because a child loses its death mark at execve.
    /// - Throws: as `fork` does; `.crowded` if as many children as possible have not called execve yet.
    @discardableResult
    public func spawn(
        _ program: Program, on descriptor: FileDescriptor, peer: SocketAddress? = nil,
        options: ChildOptions = ChildOptions()
    ) throws(ForkingError) -> ProcessID {
        try spawn(program, on: descriptor, at: 0, peer: peer, options: options)
    }

    /// The same, but unless `target` is 0, the program has `descriptor` as descriptor `target`, and inherits 0 and 1.
    @discardableResult
    func spawn(
        _ program: Program, on descriptor: FileDescriptor, at target: Int32,
        peer: SocketAddress? = nil, options: ChildOptions
    ) throws(ForkingError) -> ProcessID {
        requireParent()
        precondition(
            marks == nil, "a table that spawns programs must reap by pidfd: ChildTable(maxChildren:reaping: .pidfd)")
        try options.check()
        var options = options
        if options.containment == nil { options.containment = .session }
        try contain(options)
        if spawner == nil { try check(forkcore_spawner_open(&spawner), "mmap") }
        let slot = try reserve()
        let startedAt = Instant.now
        var pid: ProcessID = 0
        var pidfd: Int32 = -1
        let code = withPlan(options, slot) { plan in
            plan.target_descriptor = target
            plan.closes_aside = peer?.isUnix ?? false
            plan.takes_errors = program.isStandardErrorConnected
            plan.confinement.limits.memory_is_all = true
            return program.withStrings { path, arguments, environment in
                forkcore_spawn(
                    spawner, &plan, descriptor.rawValue, path, arguments, environment, slots.execError(slot), &pid,
                    &pidfd
                )
            }
        }
        guard code == 0 else {
            vacate(slot)
            guard code != EBUSY else { throw .crowded }
            throw .system(call: String(cString: forkcore_spawner_failed_call(spawner)), Errno(rawValue: code))
        }
        try enter(pid, slot, peer, startedAt, options, pidfd: pidfd)
        spawnedPause = .zero
        closeSpawnedDescriptors()
        return pid
    }

    /// Closes the parent's copies of connections whose children have called execve, so that the client sees EOF when
    /// the program closes its own. While some have not, checks again at longer and longer intervals.
    func closeSpawnedDescriptors() {
        guard let spawner, !forkcore_spawner_close_descriptors(spawner), spawnedCheckAt == nil else { return }
        spawnedPause = min(max(.milliseconds(1), spawnedPause * 2), .milliseconds(64))
        let soon = Instant.now + spawnedPause
        spawnedCheckAt = soon
        source.wake(at: soon)
    }

    /// Waits until every spawned child has called execve. That takes microseconds; the limit is ten seconds.
    ///
    /// - Returns: whether all have.
    func awaitPrograms() -> Bool {
        guard let spawner else { return true }
        guard forkcore_spawner_await(spawner, Self.patienceWithPrograms) else { return false }
        spawnedCheckAt = nil
        closeSpawnedDescriptors()
        source.fireTimers(.now)  // there is nothing to check any more
        return true
    }
}
