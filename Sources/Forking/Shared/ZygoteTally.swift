// SPDX-License-Identifier: Apache-2.0
//
// Zygote and host: what the zygote counts. It writes; the host reads. Children get neither the memory nor its file.

import CForkCore
import SystemPackage

/// A zygote's counters since its start.
struct ZygoteTally: BitwiseCopyable, Equatable {
    var alive: Int64 = 0
    var forked: Int64 = 0
    var reaped: Int64 = 0
    /// Nanoseconds spent reaping.
    var reaping: Int64 = 0
}

/// A tally in memory that a zygote shares with its host. memfd_create(2), mmap(2).
///
/// The host reads each counter while the zygote may be changing it: a counter is never torn, but two counters may be
/// of different moments.
final class SharedTally: @unchecked Sendable {
    private let memory: UnsafeMutablePointer<ZygoteTally>
    private let owner = forkcore_process()

    /// Maps the memory by its file. The zygote gives the file its size.
    init(_ file: Int32, isZygote: Bool) throws(ForkingError) {
        var opened: UnsafeMutableRawPointer?
        try check(forkcore_shared_memory_open(file, MemoryLayout<ZygoteTally>.size, isZygote, &opened), "mmap")
        memory = opened!.bindMemory(to: ZygoteTally.self, capacity: 1)
    }

    deinit {
        if owner == forkcore_process() { forkcore_parent_memory_close(memory, MemoryLayout<ZygoteTally>.size) }
    }

    var value: ZygoteTally {
        unsafeAddress { UnsafePointer(memory) }
        unsafeMutableAddress { memory }
    }
}
