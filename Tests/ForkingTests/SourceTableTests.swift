// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

/// A table of users.
private final class Users {
    let table: SourceTable

    init(capacity: Int) throws { table = try SourceTable(capacity: capacity) }

    func noteSeen(_ user: Int, at now: Instant) -> Int? {
        table.noteSeen(SourceRecord.Key(user: UInt32(user)), at: now)
    }
    func index(of user: Int) -> Int? { table.index(of: SourceRecord.Key(user: UInt32(user))) }
    func children(_ index: Int) -> Int { Int(table[index].children) }
    var count: Int { table.count }
    func noteChild(_ index: Int) { table.noteChild(index) }
    func noteChildEnd(_ index: Int, at now: Instant, _ change: (inout SourceRecord) -> Void) {
        table.noteChildEnd(index, at: now, change)
    }
}

@Suite("The table of sources")
struct SourceTableTests {
    private let start = Instant(nanoseconds: 1_000_000_000)

    @Test("when it is full, the source that was last seen the longest ago is forgotten")
    func oldest() throws {
        let table = try Users(capacity: 3)
        for user in 0..<3 { #expect(table.noteSeen(user, at: start) == user) }
        #expect(table.noteSeen(0, at: start) == 0)
        #expect(table.noteSeen(3, at: start) == 1)  // where 1 was
        #expect(table.index(of: 1) == nil)
        #expect([0, 2, 3].map { table.index(of: $0) } == [0, 2, 1])
        #expect(table.count == 3)
    }

    @Test("sources with children are never forgotten, those with penalties last, and first those whose are over")
    func order() throws {
        let table = try Users(capacity: 3)
        for user in 0..<3 { _ = table.noteSeen(user, at: start) }
        table.noteChild(0)
        table.noteChild(1)
        table.noteChildEnd(1, at: start) { $0.penalizedUntil = start + .seconds(10) }
        #expect(table.noteSeen(3, at: start) == 2)  // not the older one with penalties
        #expect(table.noteSeen(4, at: start) == 2)
        table.noteChild(2)
        #expect(table.noteSeen(5, at: start) == 1)  // there is no other
        table.noteChild(1)
        #expect(table.noteSeen(6, at: start) == nil)
        table.noteChildEnd(1, at: start) { $0.penalizedUntil = start + .seconds(10) }
        table.noteChildEnd(2, at: start) { _ in }
        #expect(table.noteSeen(7, at: start + .seconds(11)) == 1)  // its penalties are over
        #expect([0, 4, 7].map { table.index(of: $0) } == [0, 2, 1])
    }

    @Test("it agrees with a dictionary, whatever comes")
    func model() throws {
        let table = try Users(capacity: 64)
        var random = FixedGenerator(state: 3)
        var children: [Int: Int] = [:]
        for step in 0..<200_000 {
            let now = start + .nanoseconds(step)
            let user = Int.random(in: 0..<200, using: &random)
            if Int.random(in: 0..<3, using: &random) > 0 {
                guard children.values.reduce(0, +) < 60 || children[user] != nil else { continue }
                let found = table.index(of: user)
                if children[user, default: 0] > 0 { #expect(found != nil) }
                let index = try #require(table.noteSeen(user, at: now))
                #expect(found == nil || found == index)
                table.noteChild(index)
                children[user, default: 0] += 1
            } else if let (user, count) = children.randomElement(using: &random) {
                let index = try #require(table.index(of: user))
                let penalty = Int.random(in: 0..<2, using: &random)
                table.noteChildEnd(index, at: now) { if penalty > 0 { $0.penalizedUntil = now + .nanoseconds(500) } }
                children[user] = count > 1 ? count - 1 : nil
            }
            for (user, count) in children where step % 97 == 0 {
                let index = try #require(table.index(of: user))
                #expect(table.children(index) == count)
            }
        }
        #expect(table.count == 64)
    }
}
