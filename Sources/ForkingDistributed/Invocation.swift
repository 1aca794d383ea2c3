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
    /// `[UInt8]`, `Data`, or the UTF-8 of a `String`.
    case bytes([UInt8])
    case descriptor(FileDescriptor)

    init<Value: Encodable>(_ value: Value, _ codec: any IsolateCodec) throws {
        switch value {
        case let value as String: self = .bytes(Array(value.utf8))
        case let value as [UInt8]: self = .bytes(value)
        case let value as Data: self = .bytes(Array(value))
        case let value as FileDescriptor: self = .descriptor(value)
        default: self = .encoded(try codec.encode(value))
        }
    }

    func duplicated() throws -> Parcel {
        guard case .descriptor(let descriptor) = self else { return self }
        let copy = fcntl(descriptor.rawValue, F_DUPFD_CLOEXEC, 0)
        let code = failure(of: copy)
        guard code == 0 else { throw ForkingError.system(call: "fcntl", Errno(rawValue: code)) }
        return .descriptor(FileDescriptor(rawValue: copy))
    }

    func open<Value: Decodable>(_ type: Value.Type, in system: IsolateSystem) throws -> Value {
        switch self {
        case .encoded(let bytes): return try system.codec.decode(type, from: bytes, for: system)
        case .bytes(let bytes):
            if Value.self == String.self { return String(decoding: bytes, as: UTF8.self) as! Value }
            if let value = bytes as? Value { return value }
            if let value = Data(bytes) as? Value { return value }
            if let value = String(decoding: bytes, as: UTF8.self) as? Value { return value }
        case .descriptor(let descriptor):
            if let value = descriptor as? Value { return value }
        }
        throw ForkingError.invalid("an argument or a result is not a \(type), as it should be")
    }
}

/// A call of a method: to which actor, of which method, with what.
struct Invocation: Transfer {
    var actor = IsolateActorID(process: 0, number: 0)
    /// The method's mangled name, as the compiler gives it.
    var target = ""
    /// The mangled names of the types that stand for its generic parameters.
    var generics: [String] = []
    var arguments: [Parcel] = []

    init() {}

    init(from reader: inout ByteReader) throws {
        actor = IsolateActorID(process: try reader.number(), number: try reader.number())
        target = try reader.text()
        generics = try (0..<reader.count(ofAtLeast: 8)).map { _ in try reader.text() }
        arguments = try (0..<reader.count()).map { _ in try reader.parcel() }
    }

    /// With descriptors of its own, which the method may close.
    func duplicated() throws -> Invocation {
        var copy = self
        copy.arguments = []
        do {
            for argument in arguments { copy.arguments.append(try argument.duplicated()) }
        } catch {
            copy.closeDescriptors()
            throw error
        }
        return copy
    }

    func write(to writer: inout ByteWriter) {
        writer.add(actor.process)
        writer.add(actor.number)
        writer.add(target)
        writer.add(UInt64(generics.count))
        for name in generics { writer.add(name) }
        writer.add(UInt64(arguments.count))
        for argument in arguments { writer.add(argument) }
    }

    /// Those that go with it.
    private var descriptors: [FileDescriptor] {
        arguments.compactMap { if case .descriptor(let descriptor) = $0 { descriptor } else { nil } }
    }
    var hasDescriptors: Bool { !descriptors.isEmpty }

    /// In the process of its actor, which has them from the caller.
    func closeDescriptors() { descriptors.forEach { try? $0.close() } }
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
    /// Whether all arguments were read, so that the method has them.
    var isAtEnd: Bool { next == invocation.arguments.count }

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
        let argument = try invocation.arguments[next].open(Argument.self, in: system)
        next += 1
        return argument
    }

    public mutating func decodeErrorType() throws -> (any Any.Type)? { nil }
    public mutating func decodeReturnType() throws -> (any Any.Type)? { nil }
}
