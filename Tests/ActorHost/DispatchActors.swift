// SPDX-License-Identifier: Apache-2.0
//
// Actors for which method a call reaches, with which types, and where it runs.

import Distributed
import Forking
import ForkingDistributed
import Glibc
import HostSupport
import Synchronization

// MARK: Methods

/// Methods that are told apart by their labels and types only; and in extensions.
distributed actor Overloaded {
    typealias ActorSystem = IsolateSystem
    var count = 0

    distributed func put(_ text: String) -> String { "text \(text)" }
    distributed func put(_ number: Int) -> String { "number \(number)" }
    distributed func put(_ list: [Int]) -> String { "list \(list)" }
    distributed func put(first: Int) -> String { "first \(first)" }
    distributed func put(second first: Int) -> String { "second \(first)" }
    distributed func put(_ number: Int, in second: Int = 7, rest: [Int] = []) -> String {
        "\(number) \(second) \(rest)"
    }
    distributed var computed: Int { count * 2 }
    distributed var failing: Int { get throws { throw Refused(reason: "property", code: count) } }
    distributed var later: Int { get async { await Task { 5 }.value } }
}

extension Overloaded {
    distributed func extended(_ text: String) -> String {
        count += 1
        return "extended \(text) \(count)"
    }
    distributed var inExtension: [String: Int] { ["count": count] }
}

// MARK: Protocols

protocol Shape: DistributedActor where ActorSystem == IsolateSystem {
    distributed func area() async throws -> Double
    distributed func scaled<Factor: BinaryInteger & Codable & Sendable>(by factor: Factor) -> Double
    distributed var corners: Int { get }
    /// Has a default.
    distributed func name() -> String
}

extension Shape {
    distributed func name() -> String { "shape" }
    distributed func describe(prefix: String) async throws -> String {
        "\(prefix)\(name()), \(corners) corners, \(try await area())"
    }
    distributed func labelled<Label: Codable & Sendable, Other: Codable & Sendable>(
        _ label: Label, with other: Other
    ) -> [String: [Label]] { [name(): [label], "\(other)": []] }
    func onlyHere() -> Int { corners }
    nonisolated func describeTwice() async throws -> [String] {
        [try await describe(prefix: "a "), try await describe(prefix: "the ")]
    }
}

distributed actor Square: Shape {
    typealias ActorSystem = IsolateSystem
    private let side: Double

    init(_ side: Double, actorSystem: IsolateSystem) {
        // Not both in one assignment, which the compiler does not survive.
        self.actorSystem = actorSystem
        self.side = side
    }
    /// Neither async nor throws, as the requirement may be.
    distributed func area() -> Double { side * side }
    distributed func scaled<Factor: BinaryInteger & Codable & Sendable>(by factor: Factor) -> Double {
        side * Double(factor)
    }
    distributed var corners: Int { 4 }
    distributed func name() -> String { "square" }
}

distributed actor Disc: Shape {
    typealias ActorSystem = IsolateSystem

    distributed func area() async throws -> Double {
        await Task.yield()
        return 3
    }
    distributed func scaled<Factor: BinaryInteger & Codable & Sendable>(by factor: Factor) -> Double { Double(factor) }
    distributed var corners: Int { 0 }
}

func areas(_ shapes: [any Shape]) async throws -> [Double] {
    var areas: [Double] = []
    for shape in shapes { areas.append(try await shape.area()) }
    return areas
}

func scale<S: Shape>(_ shape: S, by factor: Int32) async throws -> [Double] {
    [try await shape.scaled(by: factor), try await shape.scaled(by: Int(factor)), Double(try await shape.corners)]
}

// MARK: Generics

protocol Greeting: Codable, Sendable {
    associatedtype Inner: Codable & Sendable
    static var word: String { get }
}
struct Hello: Greeting {
    typealias Inner = [String: Int]
    static var word: String { "hello" }
}
struct Pair<First: Codable & Sendable, Second: Codable & Sendable>: Codable, Sendable {
    var first: First
    var second: Second
}

distributed actor Box<Value: Codable & Sendable> {
    typealias ActorSystem = IsolateSystem
    private var value: Value?

    distributed func put(_ value: Value) -> Value? {
        defer { self.value = value }
        return self.value
    }
    distributed func paired<Other: Codable & Sendable>(with other: Other) -> Pair<Value?, [Other]> {
        Pair(first: value, second: [other, other])
    }
    distributed var content: Value? { value }
    distributed func typeName() -> String { "\(Value.self)" }
}
extension Box where Value: Comparable {
    distributed func exceeds(_ other: Value) -> Bool? { value.map { $0 > other } }
}

/// With types that depend on its own.
distributed actor Greeter<Word: Greeting> {
    typealias ActorSystem = IsolateSystem
    distributed func greet(_ inner: Word.Inner) -> String { "\(Word.word) \(inner)" }
    distributed func word() -> String { Word.word }
}

enum Outside<Element: Codable & Sendable> {
    distributed actor Inside {
        typealias ActorSystem = IsolateSystem
        distributed func list(_ element: Element) -> [Element] { [element, element] }
    }
}

/// Two types of actors whose names end in the same way, longer than a handler's name may be.
typealias LongPair = Pair<Pair<Pair<String, String>, Pair<String, String>>, Pair<Pair<String, String>, String>>
distributed actor Crate<Value: Codable & Sendable> {
    typealias ActorSystem = IsolateSystem
    distributed func name() -> String { "crate" }
}

/// Its name, as the runtime tells it, has an address in it, which is another one in a program that is executed anew.
private distributed actor Secret {
    typealias ActorSystem = IsolateSystem
    distributed func process() -> Int32 { getpid() }
}
func registerSecret(in handlers: inout Zygote.Handlers) { handlers.actor(Secret.self) { Secret(actorSystem: $0) } }
func callSecret(_ system: IsolateSystem) async throws -> Int32 { try await system.create(Secret.self).process() }

// MARK: Stubs

/// Callers need not know who implements it.
@Resolvable
protocol Speaker: DistributedActor, Codable where ActorSystem == IsolateSystem {
    distributed func say(_ text: String) async throws -> String
    distributed func note<Value: Codable & Sendable>(_ value: Value) -> Value
    distributed func reset()
    distributed func refuse() throws
    distributed var said: [String] { get }
}

distributed actor Loud: Speaker {
    typealias ActorSystem = IsolateSystem
    private var texts: [String] = []

    distributed func say(_ text: String) -> String {
        texts.append(text)
        return text.uppercased()
    }
    distributed func note<Value: Codable & Sendable>(_ value: Value) -> Value { value }
    distributed func reset() { texts = [] }
    distributed func refuse() throws { throw Refused(reason: "loud", code: 1) }
    distributed var said: [String] { texts }
    /// Of any speaker, wherever it is.
    distributed func ask(_ other: $Speaker, _ text: String) async throws -> [String] {
        [try await other.say(text)] + (try await textsSaid(by: other))
    }
    distributed func back(_ other: $Speaker) -> $Speaker { other }
}

/// The compiler does not call a stub's property from within an actor, but the protocol's.
func textsSaid(by speaker: some Speaker) async throws -> [String] { try await speaker.said }

distributed actor Quiet: Speaker {
    typealias ActorSystem = IsolateSystem
    private var last: String?

    distributed func say(_ text: String) async throws -> String {
        await Task.yield()
        last = text
        return text.lowercased()
    }
    distributed func note<Value: Codable & Sendable>(_ value: Value) -> Value { value }
    distributed func reset() { last = nil }
    distributed func refuse() throws { throw Refused(reason: "quiet", code: 2) }
    distributed var said: [String] { last.map { [$0] } ?? [] }
}

// MARK: Executors

/// Runs what it is given at once, and counts it.
final class CountingExecutor: SerialExecutor, TaskExecutor {
    static let shared = CountingExecutor()
    let jobs = Atomic(0)
    func enqueue(_ job: consuming ExecutorJob) {
        jobs.add(1, ordering: .relaxed)
        UnownedJob(job).runSynchronously(on: asUnownedSerialExecutor())
    }
    func asUnownedSerialExecutor() -> UnownedSerialExecutor { UnownedSerialExecutor(ordinary: self) }
    func asUnownedTaskExecutor() -> UnownedTaskExecutor { UnownedTaskExecutor(ordinary: self) }
}

final class CountingTaskExecutor: TaskExecutor {
    static let shared = CountingTaskExecutor()
    let jobs = Atomic(0)
    func enqueue(_ job: consuming ExecutorJob) {
        jobs.add(1, ordering: .relaxed)
        UnownedJob(job).runSynchronously(on: asUnownedTaskExecutor())
    }
}

/// Its executor is the main actor's.
distributed actor OnMain {
    typealias ActorSystem = IsolateSystem
    private var count = 0
    nonisolated var unownedExecutor: UnownedSerialExecutor { MainActor.sharedUnownedExecutor }

    distributed func check() -> Int {
        MainActor.preconditionIsolated()
        preconditionIsolated()
        count += 1
        return MainActor.assumeIsolated { onMainActor() } + count
    }
    nonisolated func assume() -> Int { assumeIsolated { $0.count } }
}
@MainActor func onMainActor() -> Int { 100 }

/// Its executor is one of our own.
distributed actor OnOwn {
    typealias ActorSystem = IsolateSystem
    nonisolated var unownedExecutor: UnownedSerialExecutor { CountingExecutor.shared.asUnownedSerialExecutor() }

    /// How often its executor was used.
    distributed func jobs() async -> Int {
        preconditionIsolated()
        await Task { @MainActor in _ = onMainActor() }.value
        preconditionIsolated()
        return CountingExecutor.shared.jobs.load(ordering: .relaxed)
    }
}

func inheritedIsolation(_ isolation: isolated (any Actor)? = #isolation) -> (any Actor)? { isolation }

enum Surroundings { @TaskLocal static var text = "nothing" }

/// On the executor that actors have, with what surrounds its calls.
distributed actor Plain {
    typealias ActorSystem = IsolateSystem
    private var count = 0

    distributed func text() -> String { Surroundings.text }
    distributed func textWithin(_ text: String) async throws -> [String] {
        try await Surroundings.$text.withValue(text) { [Surroundings.text, try await Plain.text(of: self)] }
    }
    private static func text(of plain: Plain) async throws -> String { try await plain.text() }

    /// Functions that run where their caller does.
    distributed func isolation() async -> [Bool] {
        let local: any Actor = asLocalActor
        let sent = await inherited { isIsolated(to: local) }
        return [isIsolated(to: local), sent, await isHere(), assumed()]
    }
    private func assumed() -> Bool { assumeIsolated { $0.count == 0 } }
    nonisolated(nonsending) private func isHere() async -> Bool {
        await Task.yield()
        preconditionIsolated()
        return true
    }
    private func isIsolated(to actor: any Actor) -> Bool {
        inheritedIsolation().map { $0 === actor } ?? false
    }
    private func inherited(_ body: () async -> Bool) async -> Bool { await body() }
    /// Not distributed and not isolated: the same on a reference as here.
    nonisolated var label: String { "plain \(id)" }
    nonisolated(nonsending) func textTwice() async throws -> [String] { [try await text(), try await text()] }
    /// Under a preference for an executor, in this process.
    distributed func preferring() async -> Int {
        await withTaskExecutorPreference(CountingTaskExecutor.shared) { await Task.yield() }
        return CountingTaskExecutor.shared.jobs.load(ordering: .relaxed)
    }
    distributed func jobs() -> Int { CountingTaskExecutor.shared.jobs.load(ordering: .relaxed) }
}

func registerDispatch(in handlers: inout Zygote.Handlers) {
    handlers.actor(Overloaded.self) { Overloaded(actorSystem: $0) }
    handlers.actor(Square.self) { (system, side: Double) in Square(side, actorSystem: system) }
    handlers.actor(Disc.self) { Disc(actorSystem: $0) }
    handlers.actor(Box<Int>.self) { Box(actorSystem: $0) }
    handlers.actor(Greeter<Hello>.self) { Greeter(actorSystem: $0) }
    handlers.actor(Box<LongPair>.self) { Box(actorSystem: $0) }
    handlers.actor(Crate<LongPair>.self) { Crate(actorSystem: $0) }
    handlers.actor(Outside<[String]>.Inside.self) { Outside.Inside(actorSystem: $0) }
    registerSecret(in: &handlers)
    handlers.actor(Loud.self) { Loud(actorSystem: $0) }
    handlers.actor(Quiet.self) { Quiet(actorSystem: $0) }
    handlers.actor(OnMain.self) { OnMain(actorSystem: $0) }
    handlers.actor(OnOwn.self) { OnOwn(actorSystem: $0) }
    handlers.actor(Plain.self) { Plain(actorSystem: $0) }
}
