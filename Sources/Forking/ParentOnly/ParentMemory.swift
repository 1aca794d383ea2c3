// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// Memory that children get no copy of, zero at first, for what a parent changes all the time. Elsewhere each change
/// after a fork would cost a page, and the child would keep the page as it was.
///
/// Parent alone: a child that touched it would get SIGSEGV. It is given back when it goes away in the process that made
/// it; in a child something else may be there by then.
struct ParentMemory: ~Copyable {
    let start: UnsafeMutableRawPointer
    let size: Int
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

/// Values in such memory. Each is to be written before it is read, unless nothing but zeros is one, too.
struct ParentArray<Element: BitwiseCopyable>: ~Copyable {
    private let memory: ParentMemory

    init(count: Int) throws(ForkingError) {
        memory = try ParentMemory(size: count * MemoryLayout<Element>.stride)
        memory.start.bindMemory(to: Element.self, capacity: count)
    }

    var count: Int { memory.size / MemoryLayout<Element>.stride }

    /// In place, as in memory that a pointer points to: neither read nor written as a whole where it is about a part.
    subscript(index: Int) -> Element {
        unsafeAddress { UnsafePointer(pointer(to: index)) }
        nonmutating unsafeMutableAddress { pointer(to: index) }
    }

    func pointer(to index: Int) -> UnsafeMutablePointer<Element> {
        assert(index >= 0 && index < count, "\(index) is none of \(count)")
        return memory.start.assumingMemoryBound(to: Element.self) + index
    }

    /// The same values, and room for more.
    func copy(count larger: Int) throws(ForkingError) -> ParentArray {
        precondition(larger >= count, "\(count) do not fit into \(larger)")
        let copy = try ParentArray(count: larger)
        copy.pointer(to: 0).initialize(from: pointer(to: 0), count: count)
        return copy
    }
}

/// One value in such memory.
struct ParentCell<Value: BitwiseCopyable>: ~Copyable {
    private let values: ParentArray<Value>

    init(_ value: Value) throws(ForkingError) {
        values = try ParentArray(count: 1)
        values[0] = value
    }

    var value: Value {
        unsafeAddress { UnsafePointer(values.pointer(to: 0)) }
        nonmutating unsafeMutableAddress { values.pointer(to: 0) }
    }
}
