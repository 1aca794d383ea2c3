// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// Any process: counts threads, and requires that there is only one.
enum Threads {
    static func requireOne() throws(ForkingError) {
        let count = forkcore_thread_count()
        if count > 1 { throw .threads(count: Int(count)) }
    }
}

extension Threads {
    /// Runs `body` on a thread of its own, and waits until that thread has ended. pthread_create(3)
    ///
    /// Thread-local variables that `body` sets end with the thread. A Swift `Mutex` caches the thread's ID in one: in a
    /// child, the cached ID of the thread that forked would be wrong, and taking a lock would trap.
    static func runAlone(_ body: () throws -> Void) throws {
        try withoutActuallyEscaping(body) { body in
            let box = Box(body)
            var thread = pthread_t()
            let code = pthread_create(
                &thread, nil,
                {
                    Unmanaged<Box>.fromOpaque($0!).takeUnretainedValue().run()
                    return nil
                }, Unmanaged.passUnretained(box).toOpaque())
            try check(code, "pthread_create")
            pthread_join(thread, nil)
            // pthread_join returns a moment before the thread has ended for the kernel, which would still count it.
            while access("/proc/self/task/\(box.thread)", F_OK) == 0 { sched_yield() }
            try box.result.get()
        }
    }

    private final class Box {
        private let body: () throws -> Void
        private(set) var result: Result<Void, any Error> = .success(())
        private(set) var thread: ProcessID = 0

        init(_ body: @escaping () throws -> Void) { self.body = body }

        func run() {
            thread = forkcore_thread_id()
            result = Result { try body() }
        }
    }
}

/// The signal masks of this process's threads.
enum ThreadMasks {
    /// Returns a thread, other than the calling one, that does not block `signal`; nil if there is none.
    static func firstThatTakes(_ signal: Signal) -> ProcessID? {
        guard forkcore_thread_count() != 1, let tasks = opendir("/proc/self/task") else { return nil }
        defer { closedir(tasks) }
        while let entry = readdir(tasks) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            guard let thread = ProcessID(name), thread != forkcore_thread_id(), let mask = blocked(thread) else {
                continue
            }
            if mask & SignalSet([signal]).rawValue == 0 { return thread }
        }
        return nil
    }

    private static func blocked(_ thread: ProcessID) -> UInt64? {
        let line = KernelFile.lines("/proc/self/task/\(thread)/status").first { $0.hasPrefix("SigBlk:") }
        return line.flatMap { UInt64($0.dropFirst("SigBlk:".count).drop { $0 == "\t" || $0 == " " }, radix: 16) }
    }
}
