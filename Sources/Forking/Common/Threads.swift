// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// How many threads this process has, and whether that may be.
enum Threads {
    static func requireOne() throws(ForkingError) {
        let count = forkcore_thread_count()
        if count > 1 { throw .threads(count: Int(count)) }
    }
}

extension Threads {
    /// Runs `body` on a thread that is there for it alone, and waits until that has ended. pthread_create(3)
    ///
    /// What `body` leaves in thread-local variables goes with the thread. A Swift `Mutex` keeps its thread's number in
    /// one: that of the thread that forks would be wrong in each child, and a lock taken with it traps there.
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
            // It has ended for libc a moment before it has for the kernel, which would still count it.
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

/// Which signals the threads of this process let through.
enum ThreadMasks {
    /// A thread, other than the calling one, that does not block `signal`.
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
