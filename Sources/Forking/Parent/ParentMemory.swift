// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// Memory that children get no copy of, zero at first, for what a parent changes all the time. Elsewhere each change after
/// a fork would cost a page, and the child would keep the page as it was.
///
/// Parent alone: a child that touched it would get SIGSEGV. It is given back when it goes away in the process that made it;
/// in a child something else may be there by then.
struct ParentMemory: ~Copyable {
    let start: UnsafeMutableRawPointer
    private let size: Int
    private let owner = forkcore_process()

    init(size: Int) throws(ForkingError) {
        var opened: UnsafeMutableRawPointer?
        try check(forkcore_parent_memory_open(size, &opened), "mmap")
        start = opened!
        self.size = size
    }

    deinit {
        if owner == forkcore_process() { forkcore_parent_memory_close(start, size) }
    }
}

/// One value in such memory.
struct ParentCell<Value: BitwiseCopyable>: ~Copyable {
    private let memory: ParentMemory
    private let pointer: UnsafeMutablePointer<Value>

    init(_ value: Value) throws(ForkingError) {
        memory = try ParentMemory(size: MemoryLayout<Value>.size)
        pointer = memory.start.bindMemory(to: Value.self, capacity: 1)
        pointer.initialize(to: value)
    }

    var value: Value {
        get { pointer.pointee }
        nonmutating set { pointer.pointee = newValue }
    }
}
