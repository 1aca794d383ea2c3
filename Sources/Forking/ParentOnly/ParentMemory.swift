// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// Zeroed memory that is not copied to children, for data that a parent changes often. In other memory, each change
/// after a fork would copy a page, and the child would keep the old one.
///
/// Parent only: a child that touches it gets SIGSEGV. Deinit unmaps it only in the process that made it; in a child,
/// something else may have been mapped at that address.
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

/// An array in `ParentMemory`. Write each element before reading it, unless zero bytes are a valid value.
struct ParentArray<Element: BitwiseCopyable>: ~Copyable {
    private let memory: ParentMemory

    init(count: Int) throws(ForkingError) {
        memory = try ParentMemory(size: count * MemoryLayout<Element>.stride)
        memory.start.bindMemory(to: Element.self, capacity: count)
    }

    var count: Int { memory.size / MemoryLayout<Element>.stride }

    /// Accesses an element in place, so that a change of one part does not read and write the whole.
    subscript(index: Int) -> Element {
        unsafeAddress { UnsafePointer(pointer(to: index)) }
        nonmutating unsafeMutableAddress { pointer(to: index) }
    }

    func pointer(to index: Int) -> UnsafeMutablePointer<Element> {
        assert(index >= 0 && index < count, "index \(index) is not below \(count)")
        return memory.start.assumingMemoryBound(to: Element.self) + index
    }

    /// A larger copy, with the same values at its start.
    func copy(count larger: Int) throws(ForkingError) -> ParentArray {
        precondition(larger >= count, "\(count) do not fit into \(larger)")
        let copy = try ParentArray(count: larger)
        copy.pointer(to: 0).initialize(from: pointer(to: 0), count: count)
        return copy
    }
}

/// One value in `ParentMemory`.
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
