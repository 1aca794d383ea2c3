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

    private var memory: ParentMemory
    private var header: UnsafeMutablePointer<Header>
    private var children: UnsafeMutablePointer<EndedChild>

    init() throws(ForkingError) { try self.init(capacity: 16) }

    private init(capacity: Int) throws(ForkingError) {
        let stride = MemoryLayout<EndedChild>.stride  // the first place is the header's
        memory = try ParentMemory(size: stride * (capacity + 1))
        header = memory.start.bindMemory(to: Header.self, capacity: 1)
        children = (memory.start + stride).bindMemory(to: EndedChild.self, capacity: capacity)
        header.initialize(to: Header(capacity: capacity))
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
        guard let larger = try? EndedChildren(capacity: 2 * old.capacity) else {
            preconditionFailure("no memory for \(2 * old.capacity) children that have ended")
        }
        larger.children.initialize(from: children, count: old.end)
        (larger.header.pointee.first, larger.header.pointee.end) = (old.first, old.end)
        self = larger
    }
}
