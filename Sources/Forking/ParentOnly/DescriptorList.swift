// SPDX-License-Identifier: Apache-2.0

/// Descriptors in ascending order, in memory that is not copied to children. There can be thousands of pidfds.
///
/// Parent only. Like an array, it traps if there is no memory.
struct DescriptorList: ~Copyable {
    private var memory: ParentMemory
    private var capacity: Int
    private(set) var count = 0

    init() { self.init(capacity: 1024) }

    private init(capacity: Int) {
        guard let memory = try? ParentMemory(size: capacity * MemoryLayout<Int32>.stride) else {
            preconditionFailure("no memory for a list of \(capacity) descriptors")
        }
        self.memory = memory
        self.capacity = capacity
    }

    private var numbers: UnsafeMutablePointer<Int32> { memory.start.assumingMemoryBound(to: Int32.self) }

    subscript(index: Int) -> Int32 { numbers[index] }

    mutating func insert(_ descriptor: Int32) {
        if count == capacity { grow() }
        let index = index(of: descriptor)
        (numbers + index + 1).update(from: numbers + index, count: count - index)
        numbers[index] = descriptor
        count += 1
    }

    mutating func remove(_ descriptor: Int32) {
        let index = index(of: descriptor)
        guard index < count, numbers[index] == descriptor else { return }
        count -= 1
        (numbers + index).update(from: numbers + index + 1, count: count - index)
    }

    /// The index of a descriptor, or where to insert it.
    private func index(of descriptor: Int32) -> Int {
        var (low, high) = (0, count)
        while low < high {
            let middle = (low + high) / 2
            if numbers[middle] < descriptor { low = middle + 1 } else { high = middle }
        }
        return low
    }

    private mutating func grow() {
        var larger = DescriptorList(capacity: 2 * capacity)
        larger.numbers.update(from: numbers, count: count)
        larger.count = count
        self = larger
    }
}
