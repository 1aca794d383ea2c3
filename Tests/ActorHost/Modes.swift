// SPDX-License-Identifier: Apache-2.0

import Distributed
import Forking
import ForkingDistributed
import Foundation
import Glibc
import HostSupport
import Synchronization
import SystemPackage

/// What a call throws.
func failure<Result>(line: Int = #line, _ body: () async throws -> Result) async throws -> any Error {
    do { _ = try await body() } catch { return error }
    throw Failed("line \(line): no failure")
}

/// Waits for something that no event announces.
func eventually(_ text: String, line: Int = #line, _ condition: () async throws -> Bool) async throws {
    let end = ContinuousClock.now + .seconds(60)
    while try await !condition() {
        guard ContinuousClock.now < end else { throw Failed("line \(line): \(text)") }
        try await Task.sleep(for: .milliseconds(2))
    }
}

func isAlive(_ pid: Int32) -> Bool {
    guard let text = try? String(contentsOfFile: "/proc/\(pid)/stat", encoding: .utf8) else { return false }
    return text[text.lastIndex(of: ")")!...].dropFirst(2).first != "Z"
}

// MARK: What distributed actors do

@Sendable func stateIsKept(_: Int) async throws {
    let first = try await system.create(Counter.self, 10), second = try await system.create(Counter.self, 20)
    let values = [try await first.add(1), try await second.add(2), try await first.add(1)]
    try expect(values == [11, 22, 12], "\(values)")
    let processes = [try await first.process(), try await second.process(), getpid()]
    try expect(Set(processes).count == 3, "\(processes)")
    try expect(__isRemoteActor(first), "it is here")
}

@Sendable func shapes(_: Int) async throws {
    let shapes = try await system.create(Shapes.self)
    try await shapes.nothing()
    try await shapes.remember("this")
    try expect(try await shapes.remembered == "this", "forgotten")
    let joined = try await shapes.join("a", -1, nil, [1.5, 2])
    try expect(joined == "a -1 nil [1.5, 2.0]", joined)
    let tree = Tree(name: "leaf")
    try expect(try await shapes.tree(tree) == Tree(name: "root", children: [tree, tree]), "another tree")
    let long = (0..<1_000_000).map { UInt8(truncatingIfNeeded: $0) }
    try expect(try await shapes.bytes(long) == long.reversed(), "other bytes")
    try expect(try await shapes.bytes([]) == [], "bytes from nothing")
    try expect(try await shapes.data(Data([1, 2])) == Data([1, 2, 1, 2]), "other data")
    try expect(try await shapes.generic("text") == "text", "another text")
    try expect(try await shapes.generic([1, 2]) == [1, 2], "another array")
    try expect(try await shapes.generic(Optional<Tree>.none) == nil, "something")
    try expect(try await shapes.pair(1, ["a", "b"]) == ["1 0": "a", "1 1": "b"], "another pair")
    try expect(try await shapes.later(4) == 4, "another number")
    let refused = try await failure { try await shapes.refuse("why not") }
    try expect(refused as? Refused == Refused(reason: "why not", code: 7), "\(refused)")
    let failed = try await failure { try await shapes.fail() }
    try expect(failed as? ForkingError == .threw(type: "Failed", description: "as asked"), "\(failed)")
    try await descriptors(shapes)
}

private func descriptors(_ shapes: Shapes) async throws {
    let (read, write) = try FileDescriptor.pipe()
    _ = try write.writeAll("written here".utf8)
    try write.close()
    try expect(try await shapes.read(read) == "written here", "another text")
    try read.close()
    let theirs = try await shapes.readable("written there")
    var bytes = [UInt8](repeating: 0, count: 64)
    let count = try bytes.withUnsafeMutableBytes { try theirs.read(into: $0) }
    try expect(String(decoding: bytes.prefix(count), as: UTF8.self) == "written there", "another text")
    try theirs.close()
    let none = try await failure { try await shapes.readable("") }
    try expect(none as? Refused == Refused(reason: "nothing to read", code: 2), "\(none)")
}

/// What needs no codec goes past it, and an actor that was given no other is sent nothing but its calls.
@Sendable func uncoded(_: Int) async throws {
    let calls = Mutex<[Int]>([])
    var options = IsolateSystem.Options()
    options.onEnd = { report in calls.withLock { $0.append(report.calls) } }
    let system = IsolateSystem(zygote, codec: NoCodec())
    let uncoded = try await system.create(Uncoded.self, "a\0ß", options: options)
    try expect(try await uncoded.append("€\u{301}") == "a\0ß€\u{301}", "another text")
    try expect(try await uncoded.append(Optional("b")) == "a\0ßb", "another text, or none")
    try expect(try await uncoded.append([255, 0]) == [97, 0, 195, 159, 255, 0], "other bytes")
    let encoded = try await failure { try await uncoded.append(1) }
    try expect((encoded as? Failed)?.description == "Int is encoded", "\(encoded)")
    try await system.terminate(uncoded)
    try expect(calls.withLock { $0 } == [3], "calls: \(calls.withLock { $0 })")
}

@Sendable func identity(_: Int) async throws {
    let counter = try await system.create(Counter.self, 0)
    let again = try Counter.resolve(id: counter.id, using: system)
    try expect(again == counter && again !== counter, "not the same actor by another reference")
    try expect(try await counter.add(1) + again.add(1) == 3, "another actor")
    let copy = try JSONDecoder().decode(IsolateActorID.self, from: JSONEncoder().encode(counter.id))
    try expect(copy == counter.id, "\(copy)")
    // A child cannot guess who else is there.
    let others = (0..<10).map { _ in Listener(actorSystem: system) }
    let numbers = others.compactMap { $0.id.description.split(separator: " ").last.flatMap { Int($0) } }
    let isGuessable = zip(numbers, numbers.dropFirst()).contains { abs($0 - $1) < 10 }
    try expect(numbers.count == 10 && !isGuessable, "\(numbers)")
    // Of the host's own.
    let id: IsolateActorID
    do {
        let listener = Listener(actorSystem: system)
        id = listener.id
        try expect(!__isRemoteActor(listener), "it is not here")
        try expect(try Listener.resolve(id: id, using: system) === listener, "another one")
        _ = try await failure { try Counter.resolve(id: id, using: system) }
        _ = await listener.whenLocal { $0.heard }
    }
    let resigned = try await failure { try Listener.resolve(id: id, using: system) }
    try expect((resigned as? ForkingError)?.code == .invalid, "\(resigned)")
    let never = try await failure { try await system.create(Impossible.self) }
    try expect(never as? ForkingError == .threw(type: "Failed", description: "never made"), "\(never)")
    let hesitant = try await system.create(Hesitant.self)
    try expect(try await hesitant.itself() == hesitant, "it is another one to itself")
    // Of a child's own.
    let caller = try await system.create(Caller.self)
    let shapes = try await caller.makeShapes()
    try expect(shapes.id.description.hasPrefix("isolate"), "\(shapes.id)")
    try await shapes.remember("there")
    try expect(try await shapes.remembered == "there", "forgotten")
    try await caller.dropShapes()
    let dropped = try await failure { try await shapes.nothing() }
    try expect((dropped as? ForkingError)?.code == .handlerThrew || "\(dropped)".contains("no isolate"), "\(dropped)")
}

@Sendable func callbacks(_: Int) async throws {
    let listener = Listener(actorSystem: system)
    let caller = try await system.create(Caller.self)
    try expect(try await caller.process(of: listener) == getpid(), "it was called elsewhere")
    try expect(try await caller.tell(listener, ["a", "b", "c"]) == [1, 2, 3], "other counts")
    let sum = try await caller.tellAtOnce(listener, (0..<50).map { "\($0)" })
    try expect(sum == (4...53).reduce(0, +), "\(sum)")
    let heard = await listener.whenLocal { $0.heard }!
    try expect(heard.prefix(3) == ["a", "b", "c"] && Set(heard).count == 53, "\(heard)")
    let refused = try await failure { try await caller.refused(by: listener) }
    try expect(refused as? Refused == Refused(reason: "not now", code: 1), "\(refused)")
    // A call under way is completed though its actor is to end, with what it asks of the host.
    let another = try await system.create(Caller.self)
    let gate = Listener(actorSystem: system)
    let telling = Task { try await another.tellTwice(gate) }
    try await eventually("nothing heard") { await gate.whenLocal { $0.heard.count } == 1 }
    let ending = Task { try await system.terminate(another, timeout: .seconds(60)) }
    try await eventually("it is not closing") { (try? await another.process(of: gate)) == nil }
    await gate.whenLocal { $0.open() }
    try expect(try await telling.value == 3, "not completed")
    let status = try await ending.value
    try expect(status?.isSuccess == true, "\(String(describing: status))")
    // From one child to another, through the host.
    let counter = try await system.create(Counter.self, 5)
    try expect(try await caller.add(2, to: counter) == 7, "another state")
    try expect(try await counter.add(0) == 7, "another counter")
    _ = try? await counter.trap([])
    let lost = try await failure { try await caller.add(2, to: counter) }
    try expect(lost is ForkingError, "\(lost)")
}

// MARK: Ends

@Sendable func ends(_: Int) async throws {
    let cases: [(String, @Sendable (Counter) async throws -> Void, ExitStatus)] = [
        ("trap", { _ = try await $0.trap([]) }, .signaled(.illegalInstruction, dumpedCore: false)),
        ("kill", { try await $0.kill() }, .signaled(.kill, dumpedCore: false)),
        ("exit", { try await $0.exit(3) }, .exited(code: 3)),
    ]
    for (name, body, status) in cases {
        let counter = try await system.create(Counter.self, 0)
        async let end = system.end(of: counter)
        let error = try await failure { try await body(counter) } as? ForkingError
        try expect(error?.code == .childEnded, "\(name): \(error as Any)")
        switch (error?.exitStatus, status) {
        case (.signaled(let a, _)?, .signaled(let b, _)): try expect(a == b, "\(name): \(a)")
        default: try expect(error?.exitStatus == status, "\(name): \(error as Any)")
        }
        let cause = try await end
        try expect(cause != nil, "\(name): it ended without a cause")
        let later = try await failure { _ = try await counter.add(1) }
        try expect(later is ForkingError, "\(later)")
    }
    let counter = try await system.create(Counter.self, 0)
    let pid = try await counter.process()
    async let end = system.end(of: counter)
    let status = try await system.terminate(counter)
    try expect(status == .exited(code: 0), "\(status as Any)")
    try expect(try await end == nil, "it ended by another cause")
    try await eventually("it lives on") { !isAlive(pid) }
    _ = try await failure { _ = try await counter.add(1) }
}

@Sendable func restarts(_: Int) async throws {
    let ended = Mutex(0)
    var options = IsolateSystem.Options()
    options.restart = .always
    options.onEnd = { _ in ended.withLock { $0 += 1 } }
    let counter = try await system.create(Counter.self, 10, options: options)
    for round in 1...2 {
        try expect(try await counter.add(1) == 11, "the state of the last one")
        _ = try await failure { _ = try await counter.trap([]) }
        try await eventually("its end is not told") { ended.withLock { $0 } == round }
    }
    try expect(try await counter.add(1) == 11, "it is not there any more")
    let caller = try await system.create(Caller.self)
    try expect(try await caller.add(1, to: counter) == 12, "another state")
}

@Sendable func deadlines(_: Int) async throws {
    var options = IsolateSystem.Options()
    options.restart = .always
    let counter = try await system.create(Counter.self, 0, options: options)
    let deadline = Duration.milliseconds(50)
    let late = try await failure { try await IsolateSystem.withDeadline(deadline) { try await counter.sleep() } }
    try expect(late as? ForkingError == .deadlineExceeded(deadline), "\(late)")
    // The method has heeded its cancellation, so that its actor goes on.
    try await eventually("it was not cancelled") { try await counter.hasBeenCancelled() }
    let pid = try await counter.process()
    let stuck = try await failure { try await IsolateSystem.withDeadline(deadline) { try await counter.spin() } }
    try expect(stuck as? ForkingError == .deadlineExceeded(deadline), "\(stuck)")
    try await eventually("it spins on") { !isAlive(pid) }
    try expect(try await counter.add(1) == 1, "no other")
}

@Sendable func cancellation(_: Int) async throws {
    let counter = try await system.create(Counter.self, 0)
    let task = Task { try await counter.sleep() }
    try expect(try await counter.add(1) == 1, "it does nothing else meanwhile")
    task.cancel()
    let error = try await failure { try await task.value }
    try expect((error as? ForkingError)?.code == .cancelled || error is CancellationError, "\(error)")
    try await eventually("it was not cancelled") { try await counter.hasBeenCancelled() }
    // Through a child, to the host.
    let listener = Listener(actorSystem: system), caller = try await system.create(Caller.self)
    let waiting = Task { try await caller.wait(for: listener) }
    try expect(try await caller.tell(listener, ["x"]) == [1], "it does nothing else meanwhile")
    waiting.cancel()
    _ = try await failure { try await waiting.value }
}

@Sendable func zygoteKilled(_: Int) async throws {
    var options = IsolateSystem.Options()
    options.restart = .always
    let counter = try await system.create(Counter.self, 0, options: options)
    let waiting = Task { try await counter.sleep() }
    _ = try await counter.add(1)
    kill(zygote.pid!, SIGKILL)
    let lost = try await failure { try await waiting.value }
    try expect((lost as? ForkingError)?.code == .zygoteLost, "\(lost)")
    try await eventually("no other") { (try? await counter.add(1)) == 1 }
}

/// From eight Tasks; one call in ten fails.
@Sendable func manyCalls(_ calls: Int) async throws {
    var options = IsolateSystem.Options()
    options.restart = .always
    try await withThrowingTaskGroup(of: Void.self) { group in
        for _ in 0..<8 {
            group.addTask { [options] in
                let counter = try await system.create(Counter.self, 0, options: options)
                for number in 0..<calls / 8 {
                    switch number % 40 {
                    case 10: _ = try await failure { _ = try await counter.trap([]) }
                    case 20: _ = try await failure { try await counter.kill() }
                    case 30:
                        let deadline = Duration.milliseconds(1)
                        let error = try await failure {
                            try await IsolateSystem.withDeadline(deadline) { try await counter.sleep() }
                        }
                        try expect(error as? ForkingError == .deadlineExceeded(deadline), "\(error)")
                    default: _ = try await counter.add(1)
                    }
                }
                try await system.terminate(counter)
            }
        }
        try await group.waitForAll()
    }
}

/// The median of calls one after the other.
@Sendable func time(_ calls: Int) async throws {
    let counter = try await system.create(Counter.self, 0)
    var times: [Duration] = []
    let begun = ContinuousClock.now
    for _ in 0..<calls {
        let start = ContinuousClock.now
        _ = try await counter.add(1)
        times.append(ContinuousClock.now - start)
    }
    let all = ContinuousClock.now - begun
    times.sort()
    print("p50 \(times[calls / 2]), p99 \(times[calls * 99 / 100]), \(Double(calls) / (all / .seconds(1))) a second")
}
