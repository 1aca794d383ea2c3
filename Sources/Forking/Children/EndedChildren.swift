// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// A child's end as it was found, until the observer is told of it.
struct EndedChild: BitwiseCopyable {
    let child: Child
    let ending: forkcore_ending
    let refusal: Int32
    let at: Instant
}

/// The ends that nobody was told of yet, the oldest first, in memory that children get no copy of.
///
/// Parent alone: a child that touched it would get SIGSEGV. Like an array, it traps where there is no memory.
struct EndedChildren: ~Copyable {
    private struct Header {
        var first = 0
        var end = 0
        var capacity: Int
    }

    private var header: UnsafeMutablePointer<Header>
    private var children: UnsafeMutablePointer<EndedChild>
    private let owner = forkcore_process()

    init() throws(ForkingError) {
        var memory: UnsafeMutableRawPointer?
        try check(forkcore_parent_memory_open(Self.size(16), &memory), "mmap")
        (header, children) = Self.bind(memory!, capacity: 16)
    }

    private static func size(_ capacity: Int) -> Int {
        MemoryLayout<EndedChild>.stride * (capacity + 1)  // the first place is the header's
    }

    private static func bind(
        _ memory: UnsafeMutableRawPointer, capacity: Int
    ) -> (UnsafeMutablePointer<Header>, UnsafeMutablePointer<EndedChild>) {
        let header = memory.bindMemory(to: Header.self, capacity: 1)
        header.initialize(to: Header(capacity: capacity))
        return (header, (memory + size(0)).bindMemory(to: EndedChild.self, capacity: capacity))
    }

    var isEmpty: Bool { header.pointee.first == header.pointee.end }

    mutating func append(_ child: EndedChild) {
        if header.pointee.end == header.pointee.capacity { grow() }
        (children + header.pointee.end).initialize(to: child)
        header.pointee.end += 1
    }

    /// Takes the oldest.
    func next() -> EndedChild? {
        guard !isEmpty else { return nil }
        let child = children[header.pointee.first]
        header.pointee.first += 1
        if isEmpty { (header.pointee.first, header.pointee.end) = (0, 0) }
        return child
    }

    private mutating func grow() {
        let old = header.pointee
        let capacity = 2 * old.capacity
        var memory: UnsafeMutableRawPointer?
        let code = forkcore_parent_memory_open(Self.size(capacity), &memory)
        precondition(code == 0, "no memory for \(capacity) children that have ended")
        let (newHeader, newChildren) = Self.bind(memory!, capacity: capacity)
        newChildren.initialize(from: children, count: old.end)
        (newHeader.pointee.first, newHeader.pointee.end) = (old.first, old.end)
        forkcore_parent_memory_close(header, Self.size(old.capacity))
        (header, children) = (newHeader, newChildren)
    }

    deinit {
        guard owner == forkcore_process() else { return }
        forkcore_parent_memory_close(header, Self.size(header.pointee.capacity))
    }
}
