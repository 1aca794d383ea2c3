// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// A value that a parent changes all the time, in memory that children get no copy of. Elsewhere each change after a fork
/// would cost a page, and the child would keep the page as it was.
///
/// Parent alone: a child that touched it would get SIGSEGV.
struct ParentCell<Value: BitwiseCopyable>: ~Copyable {
    private let memory: UnsafeMutablePointer<Value>
    private let owner = forkcore_process()

    init(_ value: Value) throws(ForkingError) {
        var opened: UnsafeMutableRawPointer?
        try check(forkcore_parent_memory_open(MemoryLayout<Value>.size, &opened), "mmap")
        memory = opened!.bindMemory(to: Value.self, capacity: 1)
        memory.initialize(to: value)
    }

    var value: Value {
        get { memory.pointee }
        nonmutating set { memory.pointee = newValue }
    }

    deinit {
        if owner == forkcore_process() { forkcore_parent_memory_close(memory, MemoryLayout<Value>.size) }
    }
}
