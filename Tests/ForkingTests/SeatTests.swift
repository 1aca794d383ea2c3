// SPDX-License-Identifier: Apache-2.0

import Glibc
import CForkCore
import Synchronization
import Testing

@testable import Forking

@Suite("What the parent reads of a worker")
struct SeatTests {
    private let start = Instant(nanoseconds: 1_000), now = Instant(nanoseconds: 9_000)

    private func read(_ seat: Seat) -> WorkerSnapshot { seat.read(startedAt: start, now: now) }

    @Test("a new seat says nothing but that there is a worker")
    func fresh() throws {
        let snapshot = read(try Seat())
        #expect(!snapshot.isReady && !snapshot.wantsToRetire && !snapshot.isDraining && !snapshot.isBusy)
        #expect(!snapshot.hasConnection && snapshot.requests == 0 && snapshot.oldest == nil && snapshot.peer == nil)
        #expect(snapshot.since == start && snapshot.beat == start)
    }

    @Test("what a worker says is read")
    func said() throws {
        let seat = try Seat()
        let peer = try SocketAddress(parsing: "127.0.0.1:5")
        seat.lines.isReady.store(true, ordering: .relaxed)
        seat.lines.wantsToRetire.store(true, ordering: .relaxed)
        seat.lines.hasConnection.store(true, ordering: .relaxed)
        seat.lines.requests.store(12, ordering: .relaxed)
        seat.lines.since.store(5_000, ordering: .relaxed)
        seat.lines.beat.store(6_000, ordering: .relaxed)
        seat.lines.peer = peer
        let snapshot = read(seat)
        #expect(snapshot.isReady && snapshot.wantsToRetire && snapshot.hasConnection && !snapshot.isBusy)
        #expect(snapshot.requests == 12 && snapshot.peer == peer)
        #expect(snapshot.since.nanoseconds == 5_000 && snapshot.beat.nanoseconds == 6_000)
    }

    @Test(
        "no time is before its start, nor after now",
        arguments: [(.min, 1_000), (0, 1_000), (.max - 1, 9_000)] as [(Int64, Int64)])
    func times(said: Int64, read expected: Int64) throws {
        let seat = try Seat()
        seat.lines.since.store(said, ordering: .relaxed)
        seat.lines.beat.store(said, ordering: .relaxed)
        seat.lines.active.store(1, ordering: .relaxed)
        _ = seat.noteStart(Instant(nanoseconds: said))
        let snapshot = read(seat)
        #expect(snapshot.since.nanoseconds == expected && snapshot.beat.nanoseconds == expected)
        // What is 0 or less is no start.
        #expect(snapshot.oldest?.nanoseconds == (said > 0 ? expected : nil))
    }

    @Test("a peer that can be no address is none")
    func torn() throws {
        let seat = try Seat()
        seat.lines.peer = SocketAddress { storage, length in
            storage.pointee.ss_family = sa_family_t(AF_INET)
            length.pointee = 3
        }
        #expect(read(seat).peer == nil)
    }

    @Test("the request that is served for longest is the one that counts, while there is any")
    func requests() throws {
        let seat = try Seat()
        seat.lines.active.store(3, ordering: .relaxed)
        let numbers = [4_000, 2_000, 3_000].map { seat.noteStart(Instant(nanoseconds: $0)) }
        #expect(Set(numbers).count == 3 && read(seat).oldest?.nanoseconds == 2_000)
        seat.forgetStart(numbers[1])
        #expect(read(seat).oldest?.nanoseconds == 3_000)
        for wrong in [-1, 256, .max - 1] { seat.forgetStart(wrong) }
        #expect(read(seat).oldest?.nanoseconds == 3_000)
        seat.lines.active.store(-1, ordering: .relaxed)
        #expect(!read(seat).isBusy && read(seat).oldest == nil)
        seat.lines.active.store(1, ordering: .relaxed)
        seat.forgetStart(nil)
        #expect(read(seat).isBusy && read(seat).oldest == nil)
    }

    @Test("so many starts are known at once, and those beyond are not timed")
    func manyRequests() throws {
        let seat = try Seat()
        let numbers = (0..<256).map { _ in seat.noteStart(now) }
        #expect(numbers.sorted() == Array(0..<256))
        #expect(seat.noteStart(now) == -1)
        seat.forgetStart(100)
        #expect(seat.noteStart(now) == 100)
    }

    @Test("it is asked to drain once, and knows what it was asked before")
    func draining() throws {
        let seat = try Seat()
        seat.offerLastClients()
        #expect(seat.takesLastClients)
        let (first, second) = (seat.askToDrain() & 3, seat.askToDrain(atOnce: true) & 3)
        #expect((first, second, seat.askToDrain() & 3) == (0, 1, 3))
        #expect(seat.isDraining && read(seat).isDraining)
    }
}
