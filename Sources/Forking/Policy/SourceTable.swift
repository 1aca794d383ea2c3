// SPDX-License-Identifier: Apache-2.0

/// The sources that are remembered: a hash table of a fixed size, in memory that is not copied to children. Parent.
///
/// Sources without children are in one of two lists, by when they were last seen: those with penalties, and the others.
/// When the table is full, the oldest is forgotten: one whose penalties are over, or else one of the others, or else one
/// with penalties.
struct SourceTable: ~Copyable {
    /// 64 bytes, as a line of the processor's cache.
    private struct Slot: BitwiseCopyable {
        var source: SourceRecord
        /// Links are indices plus 1, or 0 for none: zeroed memory is an empty table.
        var nextInBucket: Int32 = 0
        var older: Int32 = 0
        var newer: Int32 = 0
    }

    private struct Ends: BitwiseCopyable {
        var oldest: Int32 = 0
        var newest: Int32 = 0
    }

    private struct State: BitwiseCopyable {
        /// Slots that were ever used, and those of them that are not used now.
        var used: Int32 = 0
        var others = Ends()
        var penalized = Ends()
    }

    private let slots: ParentArray<Slot>
    private let buckets: ParentArray<Int32>
    private let state: ParentCell<State>

    init(capacity: Int) throws(ForkingError) {
        var bucketCount = 1
        while bucketCount < capacity { bucketCount *= 2 }
        let slots = try ParentArray<Slot>(count: capacity)
        let buckets = try ParentArray<Int32>(count: bucketCount)
        let state = try ParentCell(State())
        self.slots = slots
        self.buckets = buckets
        self.state = state
    }

    /// The number of sources.
    var count: Int { Int(state.value.used) }

    subscript(index: Int) -> SourceRecord {
        unsafeAddress { UnsafePointer(pointer(to: index)) }
        nonmutating unsafeMutableAddress { pointer(to: index) }
    }

    private func pointer(to index: Int) -> UnsafeMutablePointer<SourceRecord> {
        UnsafeMutableRawPointer(slots.pointer(to: index)).assumingMemoryBound(to: SourceRecord.self)
    }

    /// The index of a source that is remembered.
    func index(of key: SourceRecord.Key) -> Int? { index(of: key, in: bucket(of: key)) }

    private func index(of key: SourceRecord.Key, in bucket: Int) -> Int? {
        var link = buckets[bucket]
        while link > 0 {
            let index = Int(link - 1)
            if slots[index].source.key == key { return index }
            link = slots[index].nextInBucket
        }
        return nil
    }

    /// A client of this source has come. If the source is not remembered, it is from now on, with nothing to its
    /// account. Returns nil if there is no room for it, because each source that is remembered has children.
    func noteSeen(_ key: SourceRecord.Key, at now: Instant) -> Int? {
        let bucket = bucket(of: key)
        if let index = index(of: key, in: bucket) {
            if slots[index].source.list != .none {
                delist(index)
                enlist(index, now)
            }
            return index
        }
        guard let index = freeSlot(now) else { return nil }
        slots[index] = Slot(source: SourceRecord(key: key), nextInBucket: buckets[bucket])
        buckets[bucket] = Int32(index + 1)
        enlist(index, now)
        return index
    }

    func noteChild(_ index: Int) {
        delist(index)
        slots[index].source.children += 1
    }

    /// - Parameter change: what its end changes in the source's account.
    func noteChildEnd(_ index: Int, at now: Instant, _ change: (inout SourceRecord) -> Void) {
        slots[index].source.children -= 1
        change(&self[index])
        if slots[index].source.children == 0 { enlist(index, now) }
    }

    // MARK: Slots

    private func freeSlot(_ now: Instant) -> Int? {
        if state.value.used < slots.count {
            state.value.used += 1
            return Int(state.value.used - 1)
        }
        guard let index = forgettable(now) else { return nil }
        delist(index)
        leaveBucket(index)
        return index
    }

    private func forgettable(_ now: Instant) -> Int? {
        let (other, penalized) = (state.value.others.oldest, state.value.penalized.oldest)
        if penalized > 0, slots[Int(penalized - 1)].source.penalizedUntil <= now { return Int(penalized - 1) }
        if other > 0 { return Int(other - 1) }
        return penalized > 0 ? Int(penalized - 1) : nil
    }

    /// Seeded for each process, so that nobody can choose addresses that meet in one bucket.
    private func bucket(of key: SourceRecord.Key) -> Int { key.hashValue & (buckets.count - 1) }

    private func leaveBucket(_ index: Int) {
        let bucket = bucket(of: slots[index].source.key)
        let link = Int32(index + 1)
        if buckets[bucket] == link {
            buckets[bucket] = slots[index].nextInBucket
            return
        }
        var before = buckets[bucket]
        while before > 0, slots[Int(before - 1)].nextInBucket != link { before = slots[Int(before - 1)].nextInBucket }
        if before > 0 { slots[Int(before - 1)].nextInBucket = slots[index].nextInBucket }
    }

    // MARK: Lists

    /// As the one that was seen last.
    private func enlist(_ index: Int, _ now: Instant) {
        let link = Int32(index + 1)
        let list: SourceRecord.List = slots[index].source.penalizedUntil > now ? .penalized : .others
        slots[index].source.list = list
        withEnds(of: list) { ends in
            slots[index].older = ends.newest
            slots[index].newer = 0
            if ends.newest > 0 { slots[Int(ends.newest - 1)].newer = link } else { ends.oldest = link }
            ends.newest = link
        }
    }

    private func delist(_ index: Int) {
        let slot = slots[index]
        guard slot.source.list != .none else { return }
        withEnds(of: slot.source.list) { ends in
            if slot.older > 0 { slots[Int(slot.older - 1)].newer = slot.newer } else { ends.oldest = slot.newer }
            if slot.newer > 0 { slots[Int(slot.newer - 1)].older = slot.older } else { ends.newest = slot.older }
        }
        slots[index].source.list = .none
    }

    private func withEnds(of list: SourceRecord.List, _ body: (inout Ends) -> Void) {
        if list == .penalized { body(&state.value.penalized) } else { body(&state.value.others) }
    }
}
