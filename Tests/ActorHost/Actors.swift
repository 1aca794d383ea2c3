// SPDX-License-Identifier: Apache-2.0
//
// The actors that the tests call in processes of their own, or in the host.

import Distributed
import Forking
import ForkingDistributed
import Foundation
import Glibc
import HostSupport
import SystemPackage

/// An error that is passed as itself.
struct Refused: Error, Codable, Equatable {
    let reason: String
    let code: Int
}

/// Something to pass, with something in it.
struct Tree: Codable, Equatable {
    var name: String
    var children: [Tree] = []
}

distributed actor Counter {
    typealias ActorSystem = IsolateSystem
    private var value: Int

    init(_ value: Int, actorSystem: IsolateSystem) {
        self.value = value
        self.actorSystem = actorSystem
    }

    distributed func add(_ number: Int) -> Int {
        value += number
        return value
    }

    distributed func process() -> Int32 { getpid() }
    distributed func trap(_ values: [Int]) -> Int { values[values.count] }
    distributed func exit(_ code: Int32) { Glibc.exit(code) }
    distributed func kill() { Glibc.kill(getpid(), SIGKILL) }
    distributed func spin() { while true {} }

    /// Ends when its Task is cancelled, and says so afterwards.
    private var wasCancelled = false
    distributed func sleep() async throws {
        do { try await Task.sleep(for: .seconds(3600)) } catch {
            wasCancelled = true
            throw error
        }
    }
    distributed func hasBeenCancelled() -> Bool { wasCancelled }
}

/// What methods take, return and throw.
distributed actor Shapes {
    typealias ActorSystem = IsolateSystem
    private var last = ""

    distributed func nothing() {}
    distributed func remember(_ text: String) { last = text }
    distributed var remembered: String { last }
    distributed func join(_ text: String, _ number: Int, _ flag: Bool?, _ list: [Double]) -> String {
        "\(text) \(number) \(flag.map { "\($0)" } ?? "nil") \(list)"
    }
    distributed func tree(_ tree: Tree) -> Tree { Tree(name: "root", children: [tree, tree]) }
    distributed func bytes(_ bytes: [UInt8]) -> [UInt8] { bytes.reversed() }
    distributed func data(_ data: Data) -> Data { data + data }
    distributed func generic<Value: Codable & Sendable>(_ value: Value) -> Value { value }
    distributed func pair<First: Codable & Sendable, Second: Codable & Sendable>(
        _ first: First, _ second: [Second]
    ) -> [String: Second] {
        Dictionary(uniqueKeysWithValues: second.enumerated().map { ("\(first) \($0)", $1) })
    }
    distributed func refuse(_ reason: String) throws -> Int { throw Refused(reason: reason, code: 7) }
    distributed func fail() throws { throw Failed("as asked") }
    distributed func later(_ number: Int) async -> Int {
        try? await Task.sleep(for: .milliseconds(1))
        return number
    }
    /// Reads from a descriptor of the caller's.
    distributed func read(_ descriptor: FileDescriptor) throws -> String {
        var bytes = [UInt8](repeating: 0, count: 64)
        let count = try bytes.withUnsafeMutableBytes { try descriptor.read(into: $0) }
        try descriptor.close()
        return String(decoding: bytes.prefix(count), as: UTF8.self)
    }
    /// Returns a descriptor that reads this.
    distributed func readable(_ text: String) throws -> FileDescriptor {
        if text.isEmpty { throw Refused(reason: "nothing to read", code: 2) }
        let (read, write) = try FileDescriptor.pipe()
        _ = try write.writeAll(text.utf8)
        try write.close()
        return read
    }
}

/// Lives in the host, and is called by children.
distributed actor Listener {
    typealias ActorSystem = IsolateSystem
    private(set) var heard: [String] = []

    distributed func hear(_ text: String) -> Int {
        heard.append(text)
        return heard.count
    }
    distributed func refuse() throws { throw Refused(reason: "not now", code: 1) }
    distributed func process() -> Int32 { getpid() }
    private var isOpen = false
    func open() { isOpen = true }
    distributed func hearOnceOpen(_ text: String) async throws -> Int {
        heard.append(text)
        while !isOpen { try await Task.sleep(for: .milliseconds(1)) }
        return heard.count
    }
    distributed func wait() async throws { try await Task.sleep(for: .seconds(3600)) }
}

/// Calls others.
distributed actor Caller {
    typealias ActorSystem = IsolateSystem

    distributed func tell(_ listener: Listener, _ texts: [String]) async throws -> [Int] {
        var counts: [Int] = []
        for text in texts { counts.append(try await listener.hear(text)) }
        return counts
    }
    distributed func tellTwice(_ listener: Listener) async throws -> Int {
        try await listener.hearOnceOpen("once") + listener.hearOnceOpen("twice")
    }
    distributed func tellAtOnce(_ listener: Listener, _ texts: [String]) async throws -> Int {
        try await withThrowingTaskGroup(of: Int.self) { group in
            for text in texts { group.addTask { try await listener.hear(text) } }
            return try await group.reduce(0, +)
        }
    }
    distributed func refused(by listener: Listener) async throws { try await listener.refuse() }
    distributed func process(of listener: Listener) async throws -> Int32 { try await listener.process() }
    distributed func add(_ number: Int, to counter: Counter) async throws -> Int { try await counter.add(number) }
    distributed func wait(for listener: Listener) async throws { try await listener.wait() }
    /// An actor of the child's own, as a result.
    private var shapes: Shapes?
    distributed func makeShapes() -> Shapes {
        let shapes = Shapes(actorSystem: actorSystem)
        self.shapes = shapes
        return shapes
    }
    distributed func dropShapes() { shapes = nil }
}

/// Takes what needs no codec.
distributed actor Uncoded {
    typealias ActorSystem = IsolateSystem
    private let text: String

    init(_ text: String, actorSystem: IsolateSystem) {
        self.text = text
        self.actorSystem = actorSystem
    }

    distributed func append(_ other: String) -> String { text + other }
    distributed func append(_ other: String?) -> String? { other.map { text + $0 } }
    distributed func append(_ other: [UInt8]) -> [UInt8] { text.utf8 + other }
    distributed func append(_ number: Int) -> String { "\(text)\(number)" }
}

struct NoCodec: IsolateCodec {
    func encode<Value: Encodable>(_ value: Value) throws -> [UInt8] { throw Failed("\(Value.self) is encoded") }
    func decode<Value: Decodable>(_ type: Value.Type, from: [UInt8], for: IsolateSystem) throws -> Value {
        throw Failed("\(type) is decoded")
    }
}

/// Cannot be made.
distributed actor Impossible {
    typealias ActorSystem = IsolateSystem

    init(actorSystem: IsolateSystem) throws {
        self.actorSystem = actorSystem
        throw Failed("never made")
    }
}

/// Is made at the second attempt.
distributed actor Hesitant {
    typealias ActorSystem = IsolateSystem

    init(_ attempt: Int, actorSystem: IsolateSystem) throws {
        self.actorSystem = actorSystem
        if attempt == 1 { throw Failed("not yet") }
    }

    distributed func itself() -> Hesitant { self }
}
