// SPDX-License-Identifier: Apache-2.0
//
// Any process: a call of a distributed method, as bytes and descriptors.

public import Distributed
import Forking
import Foundation
import SystemPackage

/// A value on its way to another process.
enum Parcel: Sendable {
    /// Encoded by the codec.
    case encoded([UInt8])
    /// `[UInt8]` or `Data`.
    case bytes([UInt8])
    case descriptor(FileDescriptor)

    init<Value: Encodable>(_ value: Value, _ codec: any IsolateCodec) throws {
        switch value {
        case let value as [UInt8]: self = .bytes(value)
        case let value as Data: self = .bytes(Array(value))
        case let value as FileDescriptor: self = .descriptor(value)
        default: self = .encoded(try codec.encode(value))
        }
    }

    func open<Value: Decodable>(_ type: Value.Type, in system: IsolateSystem) throws -> Value {
        switch self {
        case .encoded(let bytes): return try system.codec.decode(type, from: bytes, for: system)
        case .bytes(let bytes):
            if let value = bytes as? Value { return value }
            if let value = Data(bytes) as? Value { return value }
        case .descriptor(let descriptor):
            if let value = descriptor as? Value { return value }
        }
        throw ForkingError.invalid("an argument or a result is not a \(type), as it should be")
    }
}

/// A call of a method: to which actor, of which method, with what.
struct Invocation: Sendable {
    var actor = IsolateActorID(process: 0, number: 0)
    /// The method's mangled name, as the compiler gives it.
    var target = ""
    /// The mangled names of the types that stand for its generic parameters.
    var generics: [String] = []
    var arguments: [Parcel] = []

    init() {}

    // MARK: As bytes

    func encoded() -> (bytes: [UInt8], descriptors: [FileDescriptor]) {
        var writer = ByteWriter()
        writer.add(actor.process)
        writer.add(actor.number)
        writer.add(target)
        writer.add(UInt64(generics.count))
        for name in generics { writer.add(name) }
        writer.add(UInt64(arguments.count))
        for argument in arguments { writer.add(argument) }
        return (writer.bytes, writer.descriptors)
    }

    init(_ bytes: [UInt8], descriptors: [FileDescriptor]) throws {
        var reader = ByteReader(bytes, descriptors)
        actor = IsolateActorID(process: try reader.number(), number: try reader.number())
        target = try reader.text()
        generics = try (0..<reader.count()).map { _ in try reader.text() }
        arguments = try (0..<reader.count()).map { _ in try reader.parcel() }
    }
}

/// Numbers, texts and parcels, one after the other.
struct ByteWriter {
    private(set) var bytes: [UInt8] = []
    private(set) var descriptors: [FileDescriptor] = []

    mutating func add(_ number: UInt64) {
        withUnsafeBytes(of: number.littleEndian) { bytes += $0 }
    }

    mutating func add(_ block: [UInt8]) {
        add(UInt64(block.count))
        bytes += block
    }

    mutating func add(_ text: String) { add(Array(text.utf8)) }

    mutating func add(_ parcel: Parcel) {
        switch parcel {
        case .encoded(let block):
            bytes.append(0)
            add(block)
        case .bytes(let block):
            bytes.append(1)
            add(block)
        case .descriptor(let descriptor):
            bytes.append(2)
            descriptors.append(descriptor)
        }
    }
}

/// What a `ByteWriter` has written. Throws where it cannot have been one: a child may have been taken over.
struct ByteReader {
    private var rest: ArraySlice<UInt8>
    private var descriptors: ArraySlice<FileDescriptor>

    init(_ bytes: [UInt8], _ descriptors: [FileDescriptor] = []) {
        rest = bytes[...]
        self.descriptors = descriptors[...]
    }

    private static let malformed = ForkingError.invalid("malformed message from another process")

    mutating func byte() throws -> UInt8 {
        guard let first = rest.popFirst() else { throw Self.malformed }
        return first
    }

    mutating func number() throws -> UInt64 {
        guard rest.count >= 8 else { throw Self.malformed }
        defer { rest = rest.dropFirst(8) }
        return rest.prefix(8).reversed().reduce(0) { $0 << 8 | UInt64($1) }
    }

    /// Of things that follow, each of at least one byte.
    mutating func count() throws -> Int {
        let count = try number()
        guard count <= rest.count else { throw Self.malformed }
        return Int(count)
    }

    mutating func block() throws -> [UInt8] {
        let count = try count()
        defer { rest = rest.dropFirst(count) }
        return Array(rest.prefix(count))
    }

    mutating func text() throws -> String { String(decoding: try block(), as: UTF8.self) }

    mutating func parcel() throws -> Parcel {
        switch try byte() {
        case 0: return .encoded(try block())
        case 1: return .bytes(try block())
        case 2:
            guard let descriptor = descriptors.popFirst() else { throw Self.malformed }
            return .descriptor(descriptor)
        default: throw Self.malformed
        }
    }
}

/// Records a call of a distributed method. Used by the compiler's code.
public struct IsolateInvocationEncoder: DistributedTargetInvocationEncoder {
    public typealias SerializationRequirement = Codable

    let codec: any IsolateCodec
    var invocation = Invocation()

    public mutating func recordGenericSubstitution<T>(_ type: T.Type) throws {
        guard let name = _mangledTypeName(type) else {
            throw ForkingError.invalid("\(type) has no name by which another process finds it")
        }
        invocation.generics.append(name)
    }

    public mutating func recordArgument<Value: Codable>(_ argument: RemoteCallArgument<Value>) throws {
        invocation.arguments.append(try Parcel(argument.value, codec))
    }

    public mutating func recordErrorType<E: Error>(_ type: E.Type) throws {}
    public mutating func recordReturnType<R: Codable>(_ type: R.Type) throws {}
    public mutating func doneRecording() throws {}
}

/// Reads a call of a distributed method. Used by the runtime.
public struct IsolateInvocationDecoder: DistributedTargetInvocationDecoder {
    public typealias SerializationRequirement = Codable

    let system: IsolateSystem
    let invocation: Invocation
    private var next = 0

    init(_ invocation: Invocation, in system: IsolateSystem) {
        self.invocation = invocation
        self.system = system
    }

    public mutating func decodeGenericSubstitutions() throws -> [any Any.Type] {
        try invocation.generics.map { name in
            guard let type = _typeByName(name) else {
                throw ForkingError.invalid("this program has no type '\(name)'")
            }
            return type
        }
    }

    public mutating func decodeNextArgument<Argument: Codable>() throws -> Argument {
        guard next < invocation.arguments.count else {
            throw ForkingError.invalid("the call has \(invocation.arguments.count) arguments, which are too few")
        }
        defer { next += 1 }
        return try invocation.arguments[next].open(Argument.self, in: system)
    }

    public mutating func decodeErrorType() throws -> (any Any.Type)? { nil }
    public mutating func decodeReturnType() throws -> (any Any.Type)? { nil }
}
