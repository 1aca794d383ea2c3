// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Testing

@testable import Forking

/// Random numbers that are the same each time. SplitMix64.
struct FixedGenerator: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }
}

@Suite("Slots of children")
struct ChildSlotsTests {
    /// What slots should be: a dictionary, and a list of those that are taken, with their pids, or 0.
    private struct Model {
        var slots: [ProcessID: Int] = [:]
        var taken: [Int: ProcessID] = [:]

        var lowestFree: Int { (0...).first { taken[$0] == nil }! }
        var end: Int { (taken.keys.max() ?? -1) + 1 }
        var filled: [Int] { slots.values.sorted() }
    }

    private func child(_ pid: ProcessID) -> Child {
        Child(pid, nil, Instant(nanoseconds: Int64(pid)), ChildOptions(), pidfd: -1)
    }

    private func filled(_ slots: borrowing ChildSlots) -> [Int] {
        var found: [Int] = []
        var slot = slots.next(from: 0)
        while let current = slot {
            found.append(current)
            slot = slots.next(from: current + 1)
        }
        return found
    }

    /// Whether each pid that can be is found where the model has it, and no other.
    private func agree(_ slots: borrowing ChildSlots, _ model: Model, _ pids: ClosedRange<ProcessID>) -> Bool {
        guard slots.count == model.taken.count, slots.end == model.end, filled(slots) == model.filled else {
            return false
        }
        return pids.allSatisfy { pid in slots.slot(of: pid) == model.slots[pid] }
            && model.slots.allSatisfy { pid, slot in slots[slot].pid == pid && slots.isTaken(slot) }
    }

    /// Few pids for many buckets, so that most share one with others, around the end of the table too.
    @Test("they find what a dictionary finds, whatever comes and goes", arguments: [1, 7, 64, 130])
    func random(capacity: Int) throws {
        var generator = FixedGenerator(state: UInt64(capacity))
        let slots = try ChildSlots(capacity: capacity)
        var model = Model()
        let pids: ClosedRange<ProcessID> = 1...ProcessID(4 * capacity)
        for step in 0..<4000 {
            // Now it fills, now it empties.
            let wantsMore = Int.random(in: 0..<100, using: &generator) < (step / 500 % 2 == 0 ? 70 : 30)
            if wantsMore, model.taken.count < capacity {
                let expected = model.lowestFree
                let slot = slots.take()
                guard slot == expected else { throw Disagreement(step: step) }
                model.taken[slot] = 0
                let pid = ProcessID.random(in: pids, using: &generator)
                if model.slots[pid] == nil, Int.random(in: 0..<10, using: &generator) > 0 {
                    slots.fill(slot, with: child(pid))
                    model.taken[slot] = pid
                    model.slots[pid] = slot
                }
            } else if let (slot, pid) = model.taken.sorted(by: { $0.key < $1.key }).randomElement(using: &generator) {
                slots.release(slot)
                model.taken[slot] = nil
                model.slots[pid] = nil
            }
            guard agree(slots, model, pids) else { throw Disagreement(step: step) }
        }
    }

    private struct Disagreement: Error { let step: Int }

    @Test("a slot that is taken again has nothing of who was there")
    func forgets() throws {
        let slots = try ChildSlots(capacity: 2)
        let first = slots.take()
        slots.fill(first, with: child(5))
        slots.execError(first).pointee = 2
        slots.release(first)
        let again = slots.take()
        let (pid, execError, found) = (slots[again].pid, slots.execError(again).pointee, slots.slot(of: 5))
        #expect(again == first && pid == 0 && execError == 0 && found == nil)
    }
}

@Suite("Ends that nobody was told of yet")
struct EndedChildrenTests {
    private func ended(_ pid: ProcessID) -> EndedChild {
        EndedChild(
            child: Child(pid, nil, Instant(nanoseconds: 1), ChildOptions(), pidfd: -1), ending: .init(), execError: pid,
            at: Instant(nanoseconds: Int64(pid)))
    }

    @Test("they come out as they went in, however many there are")
    func random() throws {
        var generator = FixedGenerator(state: 3)
        var ended = try EndedChildren()
        var model: [ProcessID] = []
        var (next, most) = (ProcessID(1), 0)
        for step in 0..<20_000 {
            if Int.random(in: 0..<100, using: &generator) < (step / 1000 % 2 == 0 ? 60 : 40) {
                ended.append(self.ended(next))
                model.append(next)
                next += 1
            } else {
                let oldest = ended.next()
                let expected = model.isEmpty ? nil : model.removeFirst()
                guard oldest?.child.pid == expected, oldest?.execError == expected else {
                    Issue.record("in step \(step) \(String(describing: oldest?.child.pid)) came")
                    return
                }
            }
            let isEmpty = ended.isEmpty
            guard isEmpty == model.isEmpty else {
                Issue.record("in step \(step) it is \(isEmpty ? "" : "not ")empty")
                return
            }
            most = max(most, model.count)
        }
        #expect(most > 32, "it has not grown")
    }
}
