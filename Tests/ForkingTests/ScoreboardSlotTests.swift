// SPDX-License-Identifier: Apache-2.0

import Glibc
import CForkCore
import Synchronization
import Testing

@testable import Forking

@Suite("What the parent reads of a worker")
struct ScoreboardSlotTests {
    private let start = Instant(nanoseconds: 1_000), now = Instant(nanoseconds: 9_000)

    private func read(_ slot: ScoreboardSlot) -> WorkerSnapshot { slot.read(startedAt: start, now: now) }

    @Test("a new slot says nothing but that there is a worker")
    func fresh() throws {
        let snapshot = read(try ScoreboardSlot())
        #expect(!snapshot.isReady && !snapshot.wantsToRetire && !snapshot.isDraining && !snapshot.isBusy)
        #expect(!snapshot.hasConnection && snapshot.requests == 0 && snapshot.oldest == nil && snapshot.peer == nil)
        #expect(snapshot.since == start && snapshot.beat == start)
    }

    @Test("what a worker says is read")
    func said() throws {
        let slot = try ScoreboardSlot()
        let peer = try SocketAddress(parsing: "127.0.0.1:5")
        slot.fields.isReady.store(true, ordering: .relaxed)
        slot.fields.wantsToRetire.store(true, ordering: .relaxed)
        slot.fields.hasConnection.store(true, ordering: .relaxed)
        slot.fields.requests.store(12, ordering: .relaxed)
        slot.fields.since.store(5_000, ordering: .relaxed)
        slot.fields.beat.store(6_000, ordering: .relaxed)
        slot.fields.peer = peer
        let snapshot = read(slot)
        #expect(snapshot.isReady && snapshot.wantsToRetire && snapshot.hasConnection && !snapshot.isBusy)
        #expect(snapshot.requests == 12 && snapshot.peer == peer)
        #expect(snapshot.since.nanoseconds == 5_000 && snapshot.beat.nanoseconds == 6_000)
    }

    @Test(
        "no time is before its start, nor after now",
        arguments: [(.min, 1_000), (0, 1_000), (.max - 1, 9_000)] as [(Int64, Int64)])
    func times(said: Int64, read expected: Int64) throws {
        let slot = try ScoreboardSlot()
        slot.fields.since.store(said, ordering: .relaxed)
        slot.fields.beat.store(said, ordering: .relaxed)
        slot.fields.active.store(1, ordering: .relaxed)
        _ = slot.noteStart(Instant(nanoseconds: said))
        let snapshot = read(slot)
        #expect(snapshot.since.nanoseconds == expected && snapshot.beat.nanoseconds == expected)
        // What is 0 or less is no start.
        #expect(snapshot.oldest?.nanoseconds == (said > 0 ? expected : nil))
    }

    @Test("a peer that can be no address is none")
    func torn() throws {
        let slot = try ScoreboardSlot()
        slot.fields.peer = SocketAddress { storage, length in
            storage.pointee.ss_family = sa_family_t(AF_INET)
            length.pointee = 3
        }
        #expect(read(slot).peer == nil)
    }

    @Test("the request that is served for longest is the one that counts, while there is any")
    func requests() throws {
        let slot = try ScoreboardSlot()
        slot.fields.active.store(3, ordering: .relaxed)
        let numbers = [4_000, 2_000, 3_000].map { slot.noteStart(Instant(nanoseconds: $0)) }
        #expect(Set(numbers).count == 3 && read(slot).oldest?.nanoseconds == 2_000)
        slot.forgetStart(numbers[1])
        #expect(read(slot).oldest?.nanoseconds == 3_000)
        for wrong in [-1, 256, .max - 1] { slot.forgetStart(wrong) }
        #expect(read(slot).oldest?.nanoseconds == 3_000)
        slot.fields.active.store(-1, ordering: .relaxed)
        #expect(!read(slot).isBusy && read(slot).oldest == nil)
        slot.fields.active.store(1, ordering: .relaxed)
        slot.forgetStart(nil)
        #expect(read(slot).isBusy && read(slot).oldest == nil)
    }

    @Test("so many starts are known at once, and those beyond are not timed")
    func manyRequests() throws {
        let slot = try ScoreboardSlot()
        let numbers = (0..<256).map { _ in slot.noteStart(now) }
        #expect(numbers.sorted() == Array(0..<256))
        #expect(slot.noteStart(now) == -1)
        slot.forgetStart(100)
        #expect(slot.noteStart(now) == 100)
    }

    @Test("it is asked to drain once, and knows what it was asked before")
    func draining() throws {
        let slot = try ScoreboardSlot()
        slot.offerLastClients()
        #expect(slot.takesLastClients)
        let (first, second) = (slot.askToDrain() & 3, slot.askToDrain(atOnce: true) & 3)
        #expect((first, second, slot.askToDrain() & 3) == (0, 1, 3))
        #expect(slot.isDraining && read(slot).isDraining)
    }
}
