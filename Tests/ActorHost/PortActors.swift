// SPDX-License-Identifier: Apache-2.0
//
// Actors for what Swift promises of every distributed actor: lifetimes, identity, local calls, errors, memory.

import Distributed
import Forking
import ForkingDistributed
import HostSupport
import Synchronization

/// What happened in this process, to be asked from the host. Each process has its own.
enum Tally {
    static let encodings = Atomic(0)
    static let ends = Atomic(0)
    static let alive = Atomic(0)
}

/// Can be told from a copy, and counts itself.
final class Token: Codable, Sendable {
    let name: String
    init(_ name: String) {
        self.name = name
        Tally.alive.add(1, ordering: .relaxed)
    }
    deinit { Tally.alive.subtract(1, ordering: .relaxed) }

    convenience init(from decoder: any Decoder) throws {
        self.init(try decoder.singleValueContainer().decode(String.self))
    }
    func encode(to encoder: any Encoder) throws {
        Tally.encodings.add(1, ordering: .relaxed)
        var container = encoder.singleValueContainer()
        try container.encode(name)
    }
}

// MARK: Lifetimes

/// Its initialiser may throw, before or after the actor is complete.
distributed actor Fragile {
    typealias ActorSystem = IsolateSystem
    enum Moment: Codable, Sendable { case never, early, late }
    private let token: Token

    init(throwing moment: Moment, _ tell: (IsolateActorID) -> Void, actorSystem: IsolateSystem) throws {
        self.actorSystem = actorSystem
        tell(id)
        if moment == .early { throw Refused(reason: "early", code: 1) }
        token = Token("complete")
        if moment == .late { throw Refused(reason: "late", code: 2) }
    }

    init(later: Bool, actorSystem: IsolateSystem) async throws {
        self.actorSystem = actorSystem
        await Task.yield()
        token = Token("later")
        if later { throw Refused(reason: "later", code: 3) }
    }

    deinit { Tally.ends.add(1, ordering: .relaxed) }

    distributed func alive() -> Int { Tally.alive.load(ordering: .relaxed) }
    distributed func ends() -> Int { Tally.ends.load(ordering: .relaxed) }
    /// Makes one that cannot be made, and one that is released at once. Returns their identifiers.
    distributed func makeOthers() -> [IsolateActorID] {
        var made: [IsolateActorID] = []
        for moment in [Moment.early, .late, .never] {
            _ = try? Fragile(throwing: moment, { made.append($0) }, actorSystem: actorSystem)
        }
        return made
    }
}

/// Is made after another one of its type, which would be taken for it.
distributed actor Twin { typealias ActorSystem = IsolateSystem }

/// Its end is where it lives.
distributed actor Chained {
    typealias ActorSystem = IsolateSystem
    private var others: [Chained] = []

    deinit { Tally.ends.add(1, ordering: .relaxed) }
    func hold(_ other: Chained) { others.append(other) }
    distributed func ends() -> Int { Tally.ends.load(ordering: .relaxed) }
}

// MARK: Identity

/// Actors inside of something else.
struct Team: Codable {
    var leader: Member
    var others: [Member]
    var roles: [IsolateActorID: String]
}

distributed actor Member {
    typealias ActorSystem = IsolateSystem
    let name: String
    private(set) var helper: Member?

    init(_ name: String, actorSystem: IsolateSystem) {
        self.actorSystem = actorSystem
        self.name = name
    }

    distributed func itself() -> Member { self }
    distributed func isItself(_ other: Member) -> Bool { other === self }
    distributed func hasName(_ other: Member) async throws -> String { try await other.nameHere }
    distributed var nameHere: String { name }
    distributed func ownID() -> IsolateActorID { id }
    /// Calls everybody, and says who is here.
    distributed func meet(_ team: Team) async throws -> [String] {
        var names: [String] = []
        for member in [team.leader] + team.others {
            let isHere = await member.whenLocal { _ in true } ?? false
            names.append("\(try await member.nameHere) \(isHere ? "here" : "elsewhere") \(team.roles[member.id] ?? "")")
        }
        return names
    }
    distributed func grow(_ team: Team) -> Team {
        let helper = Member("helper", actorSystem: actorSystem)
        self.helper = helper
        return Team(leader: self, others: [team.leader, helper] + team.others, roles: [id: "leader"])
    }
    distributed func distinct(_ members: [Member]) -> Int { Set(members).count }
    distributed func names(_ members: [String: Member]) async throws -> [String: String] {
        var names: [String: String] = [:]
        for (key, member) in members { names[key] = try await member.nameHere }
        return names
    }
}

// MARK: Calls within a process

distributed actor Keeper {
    typealias ActorSystem = IsolateSystem
    private var kept = Token("first")
    private var others: [Keeper] = []

    distributed func keep(_ token: Token) -> Token {
        defer { kept = token }
        return kept
    }
    distributed func pass(_ token: Token) -> Token { token }
    distributed func passIt(_ token: Token) -> Int { Tally.alive.load(ordering: .relaxed) }
    distributed func makeToken() -> Token { Token("made") }
    distributed func alive() -> Int { Tally.alive.load(ordering: .relaxed) }
    distributed func refuse(_ token: Token) throws -> Token { throw Refused(reason: token.name, code: 0) }
    func synchronous(_ token: Token) -> Bool { pass(token) === token }

    /// How often a token is encoded by calls of its own methods, and of another actor of this process.
    distributed func encodingsHere() async throws -> Int {
        let before = Tally.encodings.load(ordering: .relaxed)
        let token = Token("here")
        let other = Keeper(actorSystem: actorSystem)
        guard synchronous(token), try await other.pass(token) === token else { return -1 }
        _ = try await self.through(self, token)
        return Tally.encodings.load(ordering: .relaxed) - before
    }
    private func through(_ other: Keeper, _ token: Token) async throws -> Token { try await other.pass(token) }

    /// Calls a host's actor, and says how many tokens live here afterwards.
    distributed func send(to other: Keeper, _ count: Int) async throws -> Int {
        for number in 0..<count {
            let back = try await other.pass(Token("\(number)"))
            guard back.name == "\(number)" else { return -1 }
        }
        return Tally.alive.load(ordering: .relaxed)
    }
}

// MARK: What cannot be passed

/// Cannot be encoded, decoded, or either.
struct Picky: Codable, Sendable {
    var refusesOut = false
    var refusesIn = false

    init(out: Bool = false, in: Bool = false) { (refusesOut, refusesIn) = (out, `in`) }
    init(from decoder: any Decoder) throws {
        if try decoder.singleValueContainer().decode(Bool.self) { throw Refused(reason: "in", code: 5) }
    }
    func encode(to encoder: any Encoder) throws {
        if refusesOut { throw Refused(reason: "out", code: 6) }
        var container = encoder.singleValueContainer()
        try container.encode(refusesIn)
    }
}

private struct Hidden: Error, Codable { var reason = "hidden" }
struct Unencodable: Error, Codable {
    init() {}
    init(from decoder: any Decoder) throws {}
    func encode(to encoder: any Encoder) throws { throw Refused(reason: "an error's own", code: 8) }
}

distributed actor Strict {
    typealias ActorSystem = IsolateSystem
    private var calls = 0

    distributed func take(_ value: Picky) -> Int {
        calls += 1
        return calls
    }
    distributed func give(out: Bool, in: Bool) -> Picky { Picky(out: out, in: `in`) }
    distributed func hide() throws { throw Hidden() }
    distributed func fail() throws { throw Unencodable() }
    distributed func many(_ value: Int, _ text: String, _ flag: Bool) -> String { "\(value) \(text) \(flag)" }
    distributed func count() -> Int { calls }
}

func registerPort(in handlers: inout Zygote.Handlers) {
    handlers.actor(Fragile.self) { (system, moment: Fragile.Moment) in
        try Fragile(throwing: moment, { _ in }, actorSystem: system)
    }
    handlers.actor(Twin.self) { system in
        let first = Twin(actorSystem: system)
        return withExtendedLifetime(first) { Twin(actorSystem: system) }
    }
    handlers.actor(Chained.self) { Chained(actorSystem: $0) }
    handlers.actor(Member.self) { (system, name: String) in Member(name, actorSystem: system) }
    handlers.actor(Keeper.self) { Keeper(actorSystem: $0) }
    handlers.actor(Strict.self) { Strict(actorSystem: $0) }
}
