// SPDX-License-Identifier: Apache-2.0
//
// What Swift promises of every distributed actor, of those of an `IsolateSystem`: lifetimes, identity, local calls,
// errors, memory.

import Distributed
import Forking
import ForkingDistributed
import Foundation
import HostSupport
import Synchronization

// MARK: Lifetimes

/// Initialisers that throw, and ends, in the host and in a child.
@Sendable func lifetimes(_: Int) async throws {
    for (moment, code) in [(Fragile.Moment.early, 1), (.late, 2)] {
        var id: IsolateActorID?
        let error = try await failure { try Fragile(throwing: moment, { id = $0 }, actorSystem: system) }
        try expect((error as? Refused)?.code == code, "\(error)")
        try expectResigned(id!, as: Fragile.self)
    }
    _ = try await failure { try await Fragile(later: true, actorSystem: system) }
    let ends = Tally.ends.load(ordering: .relaxed)
    var local: Fragile? = try await Fragile(later: false, actorSystem: system)
    let id = local!.id
    try expect(try Fragile.resolve(id: id, using: system) === local, "another one")
    local = nil
    try expect(Tally.ends.load(ordering: .relaxed) == ends + 1, "its deinit was not run, once")
    try expectResigned(id, as: Fragile.self)
    try expect(Tally.alive.load(ordering: .relaxed) == 0, "the storage of one that was never made lives on")
    // In a child: of those that it makes, only the one that is complete ends, and none can be called from here.
    let remote = try await system.create(Fragile.self, Fragile.Moment.never)
    let before = try await remote.ends()
    let others = try await remote.makeOthers()
    try expect(Set(others).count == 3, "\(others)")
    let ended = try await remote.ends() - before, here = try await remote.alive()
    try expect(ended >= 1 && here == 1, "\(ended) have ended, \(here) live")
    for other in others {
        let reference = try Fragile.resolve(id: other, using: system)
        _ = try await failure { try await reference.alive() }
    }
    for (moment, code) in [(Fragile.Moment.early, 1), (.late, 2)] {
        let error = try await failure { try await system.create(Fragile.self, moment) }
        try expect("\(error)".contains(code == 1 ? "early" : "late"), "\(error)")
    }
    let twin = try await failure { try await system.create(Twin.self) }
    try expect("\(twin)".contains("another Twin"), "\(twin)")
}

private func expectResigned<Act: DistributedActor>(_ id: IsolateActorID, as: Act.Type, line: Int = #line) throws
where Act.ActorSystem == IsolateSystem {
    do { _ = try Act.resolve(id: id, using: system) } catch let error as ForkingError {
        return try expect(error.code == .invalid, "\(error)", line: line)
    }
    throw Failed("line \(line): \(id) was not resigned")
}

/// The end of a reference does nothing, in either process. It keeps its system until then.
@Sendable func references(_: Int) async throws {
    let chained = try await system.create(Chained.self)
    let ends = Tally.ends.load(ordering: .relaxed)
    for _ in 0..<100 { _ = try Chained.resolve(id: chained.id, using: system) }
    var holder: Chained? = Chained(actorSystem: system)
    for _ in 0..<3 {
        await holder!.whenLocal { $0.hold(try! Chained.resolve(id: chained.id, using: system)) }
    }
    holder = nil
    try expect(Tally.ends.load(ordering: .relaxed) == ends + 1, "a reference's deinit was run")
    try expect(try await chained.ends() == 0, "the actor has ended")
    try expect(await chained.whenLocal { _ in 1 } == nil, "it is here")
    // The system, and its processes.
    weak var released: IsolateSystem?
    let pid: Int32
    do {
        var other: IsolateSystem? = IsolateSystem(zygote)
        let counter = try await other!.create(Counter.self, 1)
        released = other
        other = nil
        try expect(released != nil, "the reference does not keep its system")
        try expect(try await counter.add(1) == 2, "another state")
        pid = try await counter.process()
        try expect(counter.actorSystem === released, "another system")
    }
    try await eventually("the system is not released") { released == nil }
    try await eventually("its actor's process lives on") { !isAlive(pid) }
}

// MARK: Identity

/// References are equal if they mean the same actor, on whichever side they are.
@Sendable func equality(_: Int) async throws {
    let here = Member("here", actorSystem: system)
    let first = try await system.create(Member.self, "first"), second = try await system.create(Member.self, "second")
    let again = try Member.resolve(id: first.id, using: system)
    try expect(Set([here, first, second, again]).count == 3, "other hashes")
    try expect([here: 1, first: 2][again] == 2, "not found as a key")
    try expect(here != first && first != second && first == again, "not equal, or equal")
    try expect(try await first.distinct([first, again, here, second, first]) == 3, "other hashes there")
    // What a child says of itself.
    let itself = try await first.itself()
    try expect(itself == first, "another actor: \(itself.id), not \(first.id)")
    try expect(try await first.ownID() == first.id, "it has another identifier there")
    try expect(try await first.isItself(again), "its reference to itself is to another")
    try expect(try await first.hasName(first) == "first", "it cannot be called by itself")
    // Coded.
    let decoder = JSONDecoder()
    let bytes = try JSONEncoder().encode([here, first])
    _ = try await failure { try decoder.decode([Member].self, from: bytes) }
    decoder.userInfo[.actorSystemKey] = system
    let decoded = try decoder.decode([Member].self, from: bytes)
    try expect(decoded[0] === here && decoded[1] == first && decoded[1] !== first, "\(decoded.map(\.id))")
    let keyed = try decoder.decode([Member: Int].self, from: try JSONEncoder().encode([here: 1, first: 2]))
    try expect(keyed == [here: 1, first: 2], "other keys")
}

/// Actors in structures, arrays and dictionaries, of this process, that one and another.
@Sendable func teams(_: Int) async throws {
    let here = Member("here", actorSystem: system)
    let first = try await system.create(Member.self, "first"), second = try await system.create(Member.self, "second")
    let team = Team(leader: here, others: [first, second], roles: [first.id: "worker", here.id: "boss"])
    let met = try await first.meet(team)
    try expect(met == ["here elsewhere boss", "first here worker", "second elsewhere "], "\(met)")
    let grown = try await first.grow(team)
    try expect(grown.leader == first && grown.roles == [first.id: "leader"], "another leader")
    try expect(grown.others[0] === here, "the host's is not itself")
    try expect(try await grown.others[1].nameHere == "helper", "another helper")
    let metAgain = try await second.meet(grown)
    try expect(
        metAgain == [
            "first elsewhere leader", "here elsewhere ", "helper elsewhere ", "first elsewhere leader",
            "second here ",
        ], "\(metAgain)")
    let names = try await second.names(["a": here, "b": grown.others[1], "c": second])
    try expect(names == ["a": "here", "b": "helper", "c": "second"], "\(names)")
    try expect(try await second.names([:]) == [:], "something of nothing")
    try expect(try await second.distinct([]) == 0, "something of nothing")
}

// MARK: Calls within a process

/// A call of an actor of the same process passes its arguments as they are. One of another's encodes them.
@Sendable func localCalls(_: Int) async throws {
    let local = Keeper(actorSystem: system), token = Token("here")
    let before = Tally.encodings.load(ordering: .relaxed)
    try expect(try await local.pass(token) === token, "a copy")
    try expect(try await Keeper.resolve(id: local.id, using: system).pass(token) === token, "a copy")
    try expect(await local.whenLocal { $0.synchronous(token) } == true, "a copy")
    try expect(try await local.encodingsHere() == 0, "encoded")
    try expect(Tally.encodings.load(ordering: .relaxed) == before, "encoded")
    let remote = try await system.create(Keeper.self)
    let passed = try await remote.pass(token)
    try expect(passed !== token && passed.name == "here", "not a copy")
    try expect(Tally.encodings.load(ordering: .relaxed) == before + 1, "not encoded once")
    try expect(try await remote.encodingsHere() == 0, "encoded in the child")
}

// MARK: Memory

/// Nothing that is passed stays, in either process: arguments, results, what a failed call passed.
@Sendable func released(_: Int) async throws {
    let remote = try await system.create(Keeper.self), local = Keeper(actorSystem: system)
    // The one that each keeps.
    let here = Tally.alive.load(ordering: .relaxed), there = try await remote.alive()
    for number in 0..<50 {
        try expect(try await remote.passIt(Token("\(number)")) == there + 1, "arguments live on in the child")
        try expect(try await remote.pass(Token("\(number)")).name == "\(number)", "another one")
        try expect(try await remote.makeToken().name == "made", "another one")
        _ = try await failure { try await remote.refuse(Token("refused")) }
        _ = try await remote.keep(Token("\(number)"))
    }
    try expect(try await remote.alive() == there, "results live on in the child")
    try expect(try await remote.send(to: local, 50) == there, "what it passed to the host lives on in the child")
    // What the child passed, here: the reply is on its way when the call of the host's actor has ended.
    try await eventually("\(Tally.alive.load(ordering: .relaxed)) live on in the host, not \(here)") {
        Tally.alive.load(ordering: .relaxed) == here
    }
    try expect(try await local.alive() == here, "another count")
}

// MARK: Errors

/// What is wrong with a call is an error for its caller, and nothing else.
@Sendable func badCalls(_: Int) async throws {
    let strict = try await system.create(Strict.self)
    try expect(try await strict.take(Picky()) == 1, "another count")
    let unencoded = try await failure { try await strict.take(Picky(out: true)) }
    try expect(unencoded as? Refused == Refused(reason: "out", code: 6), "\(unencoded)")
    let undecoded = try await failure { try await strict.take(Picky(in: true)) }
    try expect(undecoded as? Refused == Refused(reason: "in", code: 5), "\(undecoded)")
    let ungiven = try await failure { try await strict.give(out: true, in: false) }
    try expect(ungiven as? Refused == Refused(reason: "out", code: 6), "\(ungiven)")
    let untaken = try await failure { try await strict.give(out: false, in: true) }
    try expect(untaken as? Refused == Refused(reason: "in", code: 5), "\(untaken)")
    // Errors that another process cannot make: of a type that it cannot find, and one that is not encoded.
    let hidden = try await failure { try await strict.hide() }
    try expect((hidden as? ForkingError)?.code == .handlerThrew && "\(hidden)".contains("hidden"), "\(hidden)")
    let failed = try await failure { try await strict.fail() }
    try expect((failed as? ForkingError)?.code == .handlerThrew && "\(failed)".contains("Unencodable"), "\(failed)")
    try await badTargets(strict)
    try expect(try await strict.count() == 1, "a call that failed was made")
    try expect(try await strict.take(Picky()) == 2, "it does not go on")
}

private func badTargets(_ strict: Strict) async throws {
    for target in ["", "nonsense", "$s9BADMODULE6StrictC4takeyyYaKFTE", String(repeating: "x", count: 100_000)] {
        try await expectNoCall(strict, target) { _ in }
    }
    // The target is right, and what it is given is not.
    let many = "$s9actorhost6StrictC4manyySSSi_SSSbtYaKFTE"
    let right = try await call(strict, many) {
        try $0.recordArgument(RemoteCallArgument(label: nil, name: "value", value: 1))
        try $0.recordArgument(RemoteCallArgument(label: nil, name: "text", value: "two"))
        try $0.recordArgument(RemoteCallArgument(label: nil, name: "flag", value: true))
    }
    try expect(right == "1 two true", right)
    try await expectNoCall(strict, many) { _ in }
    try await expectNoCall(strict, many) {
        try $0.recordArgument(RemoteCallArgument(label: nil, name: "value", value: 1))
    }
    try await expectNoCall(strict, many) {
        for _ in 0..<3 { try $0.recordArgument(RemoteCallArgument(label: nil, name: "value", value: [UInt8](1...3))) }
    }
    try await expectNoCall(strict, many) {
        for _ in 0..<3 { try $0.recordArgument(RemoteCallArgument(label: nil, name: "value", value: "text")) }
    }
    // In the host, too.
    let local = Strict(actorSystem: system)
    _ = try await failure {
        try await call(try Strict.resolve(id: local.id, using: system), "nonsense") { _ in }
    }
}

/// Makes a call by its target's name, as another program might.
private func call(
    _ strict: Strict, _ target: String, _ record: (inout IsolateInvocationEncoder) throws -> Void
) async throws -> String {
    var encoder = system.makeInvocationEncoder()
    try record(&encoder)
    try encoder.doneRecording()
    return try await system.remoteCall(
        on: strict, target: RemoteCallTarget(target), invocation: &encoder, throwing: Never.self,
        returning: String.self)
}

private func expectNoCall(
    _ strict: Strict, _ target: String, line: Int = #line,
    _ record: (inout IsolateInvocationEncoder) throws -> Void
) async throws {
    let error = try await failure { try await call(strict, target, record) }
    let code = (error as? ForkingError)?.code
    try expect(code == .handlerThrew || code == .invalid, "\(target): \(error)", line: line)
    try expect(code != .childEnded, "\(target) has ended the child: \(error)", line: line)
}
