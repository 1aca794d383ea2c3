// SPDX-License-Identifier: Apache-2.0
//
// What Swift promises of every distributed actor, of those of an `IsolateSystem`: which method a call reaches, with
// which types, and where it runs.

import Distributed
import Forking
import ForkingDistributed
import Glibc
import HostSupport

/// An actor here, and one in a child.
private func both<Act: DistributedActor>(
    _ local: Act, _ body: (Act, String) async throws -> Void
) async throws where Act.ActorSystem == IsolateSystem {
    try await body(local, "here")
    try await body(try await system.create(Act.self), "in a child")
}

@Sendable func overloads(_: Int) async throws {
    try await both(Overloaded(actorSystem: system)) { actor, place in
        let put = [
            try await actor.put("a"), try await actor.put(1), try await actor.put([1, 2]),
            try await actor.put(first: 3), try await actor.put(second: 4), try await actor.put(5, in: 6, rest: [7]),
            try await actor.put(5, in: 6),
        ]
        try expect(
            put == ["text a", "number 1", "list [1, 2]", "first 3", "second 4", "5 6 [7]", "5 6 []"],
            "\(place): \(put)")
        try expect(try await actor.extended("x") == "extended x 1", place)
        try expect(try await actor.inExtension == ["count": 1], place)
        try expect(try await actor.computed == 2, place)
        try expect(try await actor.later == 5, place)
        let error = try await failure { try await actor.failing }
        try expect(error as? Refused == Refused(reason: "property", code: 1), "\(place): \(error)")
    }
}

/// Several implementations of a protocol, called by what is known of them.
@Sendable func protocols(_: Int) async throws {
    let square = try await system.create(Square.self, 3.0), disc = try await system.create(Disc.self)
    let localSquare = Square(2, actorSystem: system), localDisc = Disc(actorSystem: system)
    let shapes: [any Shape] = [square, disc, localSquare, localDisc]
    let areas = try await areas(shapes)
    try expect(areas == [9, 3, 4, 3], "\(areas)")
    let scaled = [try await scale(square, by: 2), try await scale(disc, by: 2), try await scale(localSquare, by: 5)]
    try expect(scaled == [[6, 6, 4], [2, 2, 0], [10, 10, 4]], "\(scaled)")
    var described: [String] = []
    for shape in shapes { described.append(try await shape.describe(prefix: "a ")) }
    try expect(
        described == [
            "a square, 4 corners, 9.0", "a shape, 0 corners, 3.0", "a square, 4 corners, 4.0",
            "a shape, 0 corners, 3.0",
        ], "\(described)")
    let labelled = [try await square.labelled("x", with: 1), try await localDisc.labelled("y", with: 2)]
    try expect(labelled == [["square": ["x"], "1": []], ["shape": ["y"], "2": []]], "\(labelled)")
    let twice = try await disc.describeTwice()
    try expect(twice == ["a shape, 0 corners, 3.0", "the shape, 0 corners, 3.0"], "\(twice)")
    let names = [try await square.name(), try await disc.name()]
    try expect(names == ["square", "shape"], "\(names)")
    try expect(await localSquare.whenLocal { $0.onlyHere() } == 4, "it is not here")
    try expect(await square.whenLocal { $0.onlyHere() } == nil, "it is here")
}

@Sendable func generics(_: Int) async throws {
    try await both(Box<Int>(actorSystem: system)) { box, place in
        try expect(try await box.put(1) == nil, place)
        try expect(try await box.put(2) == 1, place)
        try expect(try await box.content == 2, place)
        try expect(try await box.exceeds(1) == true, place)
        try expect(try await box.typeName() == "Int", place)
    }
    // What depends on an actor's types is called here; in a child by some versions of Swift only.
    let greeter = Greeter<Hello>(actorSystem: system), there = try await system.create(Greeter<Hello>.self)
    try expect(try await greeter.greet(["a": 1]) == #"hello ["a": 1]"#, "another greeting")
    do { try expect(try await there.greet(["a": 1]) == #"hello ["a": 1]"#, "another greeting") } catch let error
        as ForkingError
    { try expect(error.code == .handlerThrew, "\(error)") }
    try expect(try await there.word() == "hello", "it has ended")
    // Their generic methods are called here only.
    let local = Box<Int>(actorSystem: system), remote = try await system.create(Box<Int>.self)
    _ = try await local.put(2)
    let pair = try await local.paired(with: "x")
    try expect(pair.first == 2 && pair.second == ["x", "x"], "\(pair)")
    let refused = try await failure { try await remote.paired(with: "x") }
    try expect((refused as? ForkingError)?.code == .invalid, "\(refused)")
    try expect(try await remote.content == nil, "it has ended")
    try await both(Outside<[String]>.Inside(actorSystem: system)) { inside, place in
        try expect(try await inside.list(["a"]) == [["a"], ["a"]], place)
    }
    let crate = try await system.create(Crate<LongPair>.self), box = try await system.create(Box<LongPair>.self)
    try expect(try await crate.name() == "crate", "another type's actor")
    let name = try await box.typeName()
    try expect(name == "\(LongPair.self)", "\(name) is another type's")
    // A private type's, in a zygote that was executed anew.
    let first = try await callSecret(system)
    try expect(first != getpid(), "it is here")
    let pid = zygote.pid
    kill(pid!, SIGKILL)
    try await eventually("no other zygote") { (try? await callSecret(system)) != nil && zygote.pid != pid }
}

// MARK: Stubs

/// A caller that knows a protocol only, of an actor of a child, of another, and of the host.
@Sendable func resolvable(_: Int) async throws {
    let loud = try await system.create(Loud.self), quiet = try await system.create(Quiet.self)
    let here = Loud(actorSystem: system)
    for (id, texts, code) in [(loud.id, "TEXT", 1), (quiet.id, "text", 2), (here.id, "TEXT", 1)] {
        let stub = try $Speaker.resolve(id: id, using: system)
        try await speak(stub, expecting: texts, code)
        let any: any Speaker = stub
        try await speak(any, expecting: texts, code)
        try expect(stub.id == id, "it has another identifier")
        try expect(await stub.whenLocal { _ in 1 } == nil, "it is no reference")
    }
    // Stubs as arguments and results, to wherever their actor is.
    for (id, texts) in [(loud.id, ["TEXT", "Text"]), (quiet.id, ["text", "Text"]), (here.id, ["TEXT", "Text"])] {
        let stub = try $Speaker.resolve(id: id, using: system)
        let asked = try await loud.ask(stub, "Text")
        try expect(asked == texts, "\(id): \(asked)")
        let back = try await loud.back(stub)
        try expect(back == stub, "\(back.id)")
        try expect(try await back.said == ["Text"], "\(id): it has said something else")
        try await back.reset()
    }
    try expect(try await here.said == [], "the host's was not called")
    let gone = try await failure { try $Speaker.resolve(id: goneID(), using: system) }
    try expect((gone as? ForkingError)?.code == .invalid, "\(gone)")
}

private func speak(_ speaker: some Speaker, expecting text: String, _ code: Int, line: Int = #line) async throws {
    try expect(try await speaker.say("Text") == text, "another text", line: line)
    try expect(try await speaker.note([1: "a"]) == [1: "a"], "another note", line: line)
    let said = try await speaker.said
    try expect(said == ["Text"], "\(said)", line: line)
    let error = try await failure { try await speaker.refuse() }
    try expect((error as? Refused)?.code == code, "\(error)", line: line)
    try await speaker.reset()
    try expect(try await speaker.said == [], "not reset", line: line)
}

private func goneID() -> IsolateActorID { Quiet(actorSystem: system).id }

// MARK: Executors

@Sendable func executors(_: Int) async throws {
    try await both(OnMain(actorSystem: system)) { actor, place in
        try expect(try await actor.check() == 101, place)
        try expect(try await actor.check() == 102, place)
    }
    let main = OnMain(actorSystem: system)
    _ = try await main.check()
    try expect(await MainActor.run { main.assume() } == 1, "another state")
    try await both(OnOwn(actorSystem: system)) { actor, place in
        let first = try await actor.jobs(), second = try await actor.jobs()
        try expect(first >= 1 && second > first, "\(place): \(first), then \(second) jobs")
    }
    try await both(Plain(actorSystem: system)) { actor, place in
        let isolation = try await actor.isolation()
        try expect(isolation == [true, true, true, true], "\(place): \(isolation)")
        try expect(try await actor.preferring() > 0, "\(place): the preferred executor is not used")
        try expect(actor.label == "plain \(actor.id)", actor.label)
    }
    // A caller's preference is for this process's actors.
    let local = Plain(actorSystem: system), remote = try await system.create(Plain.self)
    let before = CountingTaskExecutor.shared.jobs.load(ordering: .relaxed)
    try await withTaskExecutorPreference(CountingTaskExecutor.shared) {
        _ = try await local.text()
        try expect(try await remote.jobs() == 0, "the child has the host's executor")
    }
    try expect(CountingTaskExecutor.shared.jobs.load(ordering: .relaxed) > before, "not used here")
}

/// Task-local values are those of the process, and of the Task.
@Sendable func surroundings(_: Int) async throws {
    let local = Plain(actorSystem: system), remote = try await system.create(Plain.self)
    try await Surroundings.$text.withValue("host") {
        try expect(try await local.text() == "host", "none here")
        try expect(try await remote.text() == "nothing", "passed to the child")
        try expect(try await remote.textTwice() == ["nothing", "nothing"], "passed to the child")
        let within = try await remote.textWithin("child")
        try expect(within == ["child", "child"], "\(within)")
        try expect(try await remote.text() == "nothing", "left over from the last call")
    }
}
