// SPDX-License-Identifier: Apache-2.0
//
// Child: the order in which the one thread runs jobs. First in, first out, whatever their priority: a child has few.

import CForkCore
import Forking
import SystemPackage

/// The jobs of this process. Any thread adds some, by `forkcore_jobs_add`; all else is for the thread that runs them.
final class JobQueue: @unchecked Sendable {
    typealias Job = UnsafeMutablePointer<forkcore_job>

    /// What a job's word says: when it is due, in nanoseconds, of which the lowest bit is given up; and who runs it.
    struct Word {
        let rawValue: UInt

        init(rawValue: UInt) { self.rawValue = rawValue }
        init(due: Int64, isMainActors: Bool) { rawValue = UInt(due) & ~1 | (isMainActors ? 1 : 0) }

        var due: Int64 { Int64(rawValue & ~1) }
        var isMainActors: Bool { rawValue & 1 == 1 }
    }

    /// The oldest that was received and has not run yet; the others follow.
    private var oldest: Job?
    private var timers = Timers()
    /// Called when the descriptor of `watch` is readable.
    private var onReadable: (() -> Void)?
    /// Jobs that were run since `onReadable` was called.
    private var jobsSince = 0
    private static let jobsAtOnce = 64

    /// Calls `body` when a descriptor is readable, or its other end has closed: when there are no jobs, and after some
    /// jobs, readable or not. Once in a process.
    func watch(_ descriptor: Int32, _ body: @escaping () -> Void) throws {
        var event: Int32 = -1  // open as long as the process lives
        let code = forkcore_event_open(&event)
        guard code == 0 else { throw ForkingError.system(call: "eventfd", Errno(rawValue: code)) }
        forkcore_jobs_watch(descriptor, event)
        onReadable = body
    }

    /// Runs one job, or waits until there may be one.
    func runNext() {
        let next = takeNext()
        if let onReadable, next == nil ? forkcore_jobs_is_readable() : jobsSince == Self.jobsAtOnce {
            jobsSince = 0
            onReadable()
        }
        guard let next else { return }
        jobsSince += 1
        let job = unsafeBitCast(next, to: UnownedJob.self)
        let isMainActors = Word(rawValue: next.pointee.word).isMainActors
        // Two empty words are the runtime's name for a pool: swift_executor_generic() of swift/ExecutorImpl.h.
        let pool = unsafeBitCast((0, 0), to: UnownedSerialExecutor.self)
        job.runSynchronously(on: isMainActors ? MainActor.sharedUnownedExecutor : pool)
    }

    private func takeNext() -> Job? {
        if let due = timers.firstDue, due <= Self.now { return timers.takeFirst() }
        if oldest == nil { oldest = forkcore_jobs_take(timers.firstDue ?? .max) }
        guard let job = oldest else { return nil }
        oldest = job.pointee.next
        let due = Word(rawValue: job.pointee.word).due
        guard due > 0, due > Self.now else { return job }
        timers.add(job, due)
        return nil
    }

    /// When that much time has passed. Like `SuspendingClock`, this does not count the time in which the machine sleeps:
    /// futex(2) knows no other clock.
    static func due(after delay: Duration) -> Int64 { max(0, (Instant.now + delay).nanoseconds) }

    private static var now: Int64 { Instant.now.nanoseconds }
}

/// The jobs that are not due yet, as a binary heap: none is due before the one at half its index.
private struct Timers {
    private var heap: [(due: Int64, job: JobQueue.Job)] = []

    var firstDue: Int64? { heap.first?.due }

    mutating func add(_ job: JobQueue.Job, _ due: Int64) {
        heap.append((due, job))
        var child = heap.count - 1
        while child > 0, due < heap[(child - 1) / 2].due {
            heap.swapAt(child, (child - 1) / 2)
            child = (child - 1) / 2
        }
    }

    mutating func takeFirst() -> JobQueue.Job {
        heap.swapAt(0, heap.count - 1)
        let first = heap.removeLast().job
        var parent = 0
        while true {
            let children = (2 * parent + 1..<2 * parent + 3).clamped(to: 0..<heap.count)
            guard let least = children.min(by: { heap[$0].due < heap[$1].due }), heap[least].due < heap[parent].due
            else { return first }
            heap.swapAt(least, parent)
            parent = least
        }
    }
}
