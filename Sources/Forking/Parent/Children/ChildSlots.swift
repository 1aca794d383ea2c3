// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// The slots of a table, one for each child, the lowest free one first, in memory that is not copied to children. With
/// twenty thousand children, a fork would otherwise cost four times as much.
///
/// A slot's number is also that of its death mark. Parent only: a child that touches the slots gets SIGSEGV.
struct ChildSlots: ~Copyable {
    let capacity: Int

    private struct Counts {
        var taken = 0
        var end = 0
        var firstWord = 0
    }

    private let counts: ParentCell<Counts>
    private let children: ParentArray<Child>
    /// A bit for each slot that is taken.
    private let taken: ParentArray<UInt64>
    /// A hash table with linear probing, from pids to slots plus one; 0 is an empty bucket. A power of two, at least
    /// twice the capacity.
    private let buckets: ParentArray<Int32>
    /// For each spawned child, the errno of a failed execve. The child itself writes it.
    private let execErrors: ParentArray<Int32>
    private let bucketMask: Int

    /// The number of taken slots.
    var count: Int { counts.value.taken }

    /// All taken slots are below this.
    var end: Int { counts.value.end }

    /// The child in a slot that was taken and filled.
    subscript(slot: Int) -> Child {
        get { children[slot] }
        nonmutating set { children[slot] = newValue }
    }

    /// Where a spawned child writes the errno of a failed execve; 0 means none.
    func execError(_ slot: Int) -> UnsafeMutablePointer<Int32> { execErrors.pointer(to: slot) }

    // MARK: A slot's life: take → fill → release

    /// The lowest free slot; there must be one.
    func take() -> Int {
        var word = counts.value.firstWord  // none below it has a free slot
        while taken[word] == .max { word += 1 }
        let slot = word * 64 + (~taken[word]).trailingZeroBitCount
        taken[word] |= Self.bit(slot)
        children[slot] = Child.none
        counts.value = Counts(taken: count + 1, end: max(end, slot + 1), firstWord: word)
        return slot
    }

    /// Puts a child into a slot that was taken.
    func fill(_ slot: Int, with child: Child) {
        children[slot] = child
        var bucket = home(of: child.pid)
        while buckets[bucket] != 0 { bucket = (bucket + 1) & bucketMask }
        buckets[bucket] = Int32(slot + 1)
    }

    /// Releases a slot, filled or only taken.
    func release(_ slot: Int) {
        if children[slot].pid != 0 { forget(children[slot].pid) }
        children[slot] = Child.none
        execErrors[slot] = 0
        taken[slot / 64] &= ~Self.bit(slot)
        counts.value.taken -= 1
        counts.value.firstWord = min(counts.value.firstWord, slot / 64)
        while end > 0, !isTaken(end - 1) { counts.value.end -= 1 }
    }

    private static func bit(_ slot: Int) -> UInt64 { 1 << UInt64(slot % 64) }

    func isTaken(_ slot: Int) -> Bool { taken[slot / 64] & Self.bit(slot) != 0 }

    // MARK: Finding

    /// The first slot from `slot` on that has a child in it, or nil.
    func next(from slot: Int) -> Int? {
        var slot = slot
        while slot < end {
            let rest = taken[slot / 64] >> UInt64(slot % 64)
            if rest == 0 {
                slot = (slot / 64 + 1) * 64
            } else {
                slot += rest.trailingZeroBitCount
                if children[slot].pid != 0 { return slot }
                slot += 1
            }
        }
        return nil
    }

    /// The slot of a live child.
    func slot(of pid: ProcessID) -> Int? {
        var bucket = home(of: pid)
        while buckets[bucket] != 0 {
            let slot = Int(buckets[bucket]) - 1
            if children[slot].pid == pid { return slot }
            bucket = (bucket + 1) & bucketMask
        }
        return nil
    }

    /// Multiplicative hashing, because the kernel gives out pids in sequence, which would make long runs of full
    /// buckets.
    private func home(of pid: ProcessID) -> Int { Int(UInt32(bitPattern: pid) &* 2_654_435_769 >> 4) & bucketMask }

    /// Removes a pid from the hash table, and moves back the pids behind it that it kept from their own bucket.
    private func forget(_ pid: ProcessID) {
        var hole = home(of: pid)
        while children[Int(buckets[hole]) - 1].pid != pid { hole = (hole + 1) & bucketMask }
        var next = (hole + 1) & bucketMask
        while buckets[next] != 0 {
            let wanted = home(of: children[Int(buckets[next]) - 1].pid)
            if (next - wanted) & bucketMask >= (next - hole) & bucketMask {
                buckets[hole] = buckets[next]
                hole = next
            }
            next = (next + 1) & bucketMask
        }
        buckets[hole] = 0
    }
}

extension ChildSlots {
    init(capacity: Int) throws(ForkingError) {
        var placeCount = 4
        while placeCount < 2 * capacity { placeCount *= 2 }
        try self.init(
            capacity: capacity, counts: ParentCell(Counts()), children: ParentArray(count: capacity),
            taken: ParentArray(count: (capacity + 63) / 64), buckets: ParentArray(count: placeCount),
            execErrors: ParentArray(count: capacity), bucketMask: placeCount - 1)
    }
}

/// The end of a child, until it is reported to the observer.
struct EndedChild: BitwiseCopyable {
    let child: Child
    let ending: forkcore_ending
    let execError: Int32
    let at: Instant
}

/// The ends that were not reported yet, oldest first, in memory that is not copied to children.
///
/// Parent only: a child that touches it gets SIGSEGV. Like an array, it traps if there is no memory.
struct EndedChildren: ~Copyable {
    private struct Header {
        var first = 0
        var end = 0
    }

    private let header: ParentCell<Header>
    private var children: ParentArray<EndedChild>

    var isEmpty: Bool { header.value.first == header.value.end }

    mutating func append(_ child: EndedChild) {
        if header.value.end == children.count { grow() }
        children[header.value.end] = child
        header.value.end += 1
    }

    /// Removes and returns the oldest.
    func next() -> EndedChild? {
        guard !isEmpty else { return nil }
        let child = children[header.value.first]
        header.value.first += 1
        if isEmpty { (header.value.first, header.value.end) = (0, 0) }
        return child
    }

    private mutating func grow() {
        let count = 2 * children.count
        guard let larger = try? children.copy(count: count) else {
            preconditionFailure("no memory for \(count) ended children")
        }
        children = larger
    }
}

extension EndedChildren {
    init() throws(ForkingError) { try self.init(header: ParentCell(Header()), children: ParentArray(count: 16)) }
}
