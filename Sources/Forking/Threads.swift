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
