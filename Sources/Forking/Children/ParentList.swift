// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// A list in memory that children get no copy of. What a parent writes to between two forks, each child would otherwise
/// keep a copy of, as it was when that child was forked.
///
/// Parent alone: a child that touched it would get SIGSEGV. Like an array, it traps where there is no memory.
struct ParentList<Element: BitwiseCopyable>: ~Copyable {
    private(set) var count = 0
    private var capacity = 0
    private var elements: UnsafeMutablePointer<Element>?

    subscript(index: Int) -> Element {
        precondition(index < count, "the list has no such element")
        return elements![index]
    }

    mutating func append(_ element: Element) {
        if count == capacity { grow() }
        (elements! + count).initialize(to: element)
        count += 1
    }

    mutating func removeAll() { count = 0 }

    private mutating func grow() {
        let larger = max(16, 2 * capacity)
        var memory: UnsafeMutableRawPointer?
        let code = forkcore_parent_memory_open(larger * MemoryLayout<Element>.stride, &memory)
        precondition(code == 0, "no memory for \(larger) children that have ended")
        let new = memory!.bindMemory(to: Element.self, capacity: larger)
        if let elements { new.initialize(from: elements, count: count) }
        close()
        (elements, capacity) = (new, larger)
    }

    /// In the process that made it; not a deinit, which would run in children too.
    func close() {
        if let elements { forkcore_parent_memory_close(elements, capacity * MemoryLayout<Element>.stride) }
    }
}
