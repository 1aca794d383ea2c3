// SPDX-License-Identifier: Apache-2.0
//
// Child: Tasks on the thread that waits for them. A child of a zygote has one thread, and a pool of threads would cost
// it more than all the rest of a short call: stacks, malloc arenas, descriptors, and reads of /proc.

import CForkCore
import Forking
import Synchronization

#if compiler(>=6.3) && compiler(<6.4)
    // The standard library's interface for custom executors is not public yet. Its hooks in C are not enough: since
    // Swift 6.3 the main actor, Task.yield and Task.sleep pass them by.
    @_spi(ExperimentalCustomExecutors) @_spi(ExperimentalScheduling) import _Concurrency

    /// Runs asynchronous code on the calling thread, and throws its error. Child, first thread; not from within
    /// asynchronous code. Not generic: a child would make the types anew.
    ///
    /// From the first call on, all Tasks of the process run on this thread, also the main actor's, and only during such
    /// calls. A Task that nobody has awaited stays where it is when the call ends.
    ///
    /// - Parameters:
    ///   - session: an isolate's, whose orders are received meanwhile.
    ///   - onOrder: is given each, on this thread. Returns whether to look for another one at once.
    func runOnOwnThread(
        serving session: Zygote.IsolateSession? = nil,
        _ onOrder: (@Sendable (Zygote.IsolateSession.Order) -> Bool)? = nil,
        _ body: @escaping @Sendable () async throws -> Void
    ) throws {
        _createExecutors(factory: OwnThread.self)
        if let session, let onOrder {
            try OwnThread.jobs.watch(session.descriptor) {
                while let order = session.receiveNow(), onOrder(order) {}
            }
        }
        let ending = Ending()
        Task {  // not a detached one, which would not have the caller's task-local values
            do { try await body() } catch { ending.error = error }
            ending.isThere.store(true, ordering: .sequentiallyConsistent)
            forkcore_jobs_wake()  // a custom executor may have resumed this on another thread
        }
        while !ending.isThere.load(ordering: .acquiring) { OwnThread.jobs.runNext() }
        if let error = ending.error { throw error }
    }

    /// Does all that a child does, so that what the runtime creates at first use exists in each child. Zygote: its
    /// Tasks, if it has any, and those of synchronous handlers belong to the pool of threads, before and after.
    func rehearseOwnThread() throws {
        _ = (Pool.mainExecutor, Pool.defaultExecutor)
        defer { _createExecutors(factory: Pool.self) }
        try runOnOwnThread {
            _ = await withTaskGroup(of: Int.self) { group in
                group.addTask {
                    await Task.yield()
                    return 0
                }
                return await group.reduce(0, +)
            }
        }
    }

    private final class Ending: @unchecked Sendable {
        let isThere = Atomic(false)
        var error: (any Error)?
    }

    /// The executors that replace the runtime's.
    private enum OwnThread: ExecutorFactory {
        static let jobs = JobQueue()
        static let mainExecutor: any MainExecutor = MainActorExecutor()
        static let defaultExecutor: any TaskExecutor = PoolExecutor()
    }

    /// The runtime's executors.
    private enum Pool: ExecutorFactory {
        static let mainExecutor: any MainExecutor = MainActor.executor
        static let defaultExecutor: any TaskExecutor = Task<Never, Never>.defaultExecutor
    }

    /// Stands for the pool of threads.
    private final class PoolExecutor: TaskExecutor, OwnThreadExecutor {
        func enqueue(_ job: consuming ExecutorJob) { add(job, dueAt: 0) }
    }

    private final class MainActorExecutor: MainExecutor, OwnThreadExecutor {
        func enqueue(_ job: consuming ExecutorJob) { add(job, dueAt: 0, onMainActor: true) }
        func run() { fatalError("a zygote's child has no main loop") }
        func stop() { run() }
    }

    private protocol OwnThreadExecutor: SchedulingExecutor {}

    extension OwnThreadExecutor {
        /// Any thread.
        func add(_ job: consuming ExecutorJob, dueAt due: Int64, onMainActor: Bool = false) {
            let pointer = unsafeBitCast(UnownedJob(job), to: UnsafeMutablePointer<forkcore_job>.self)
            forkcore_jobs_add(pointer, JobQueue.Word(due: due, isMainActors: onMainActor).rawValue)
        }

        func enqueue<C: Clock>(
            _ job: consuming ExecutorJob, after delay: C.Duration, tolerance: C.Duration?, clock: C
        ) {
            guard let delay = delay as? Duration else { fatalError("\(C.self) does not measure time in Duration") }
            // What sleeps is a job of the runtime's own, which then resumes the Task where it belongs.
            add(job, dueAt: JobQueue.due(after: delay))
        }

        func enqueue<C: Clock>(
            _ job: consuming ExecutorJob, at instant: C.Instant, tolerance: C.Duration?, clock: C
        ) {
            enqueue(job, after: clock.now.duration(to: instant), tolerance: tolerance, clock: clock)
        }
    }
#else
    func runOnOwnThread(
        serving session: Zygote.IsolateSession? = nil,
        _ onOrder: (@Sendable (Zygote.IsolateSession.Order) -> Bool)? = nil,
        _ body: @escaping @Sendable () async throws -> Void
    ) throws {
        if let session, let onOrder {
            Zygote.startThread {
                while true {
                    let order = (try? session.receive()) ?? .close
                    _ = onOrder(order)
                    if case .close = order { return }
                }
            }
        }
        try waiting(for: body)
    }
    func rehearseOwnThread() {}
#endif
