// SPDX-License-Identifier: Apache-2.0
//
// Any process: what became of a call of a distributed method, as bytes and descriptors.

public import Distributed
import Forking
import Synchronization
import SystemPackage

/// How a distributed method has ended.
enum Outcome: Transfer {
    case returned(Parcel)
    case returnedVoid
    /// An error that is Codable, by its type's mangled name.
    case threw(type: String, Parcel)
    /// Another error: its type's name and its text.
    case failed(type: String, text: String)

    init(threw error: any Error, _ codec: any IsolateCodec) {
        // A private type is not found by its name.
        if let error = error as? any Error & Codable, let name = _mangledTypeName(type(of: error)),
            _typeByName(name) != nil, let parcel = try? Parcel(error, codec)
        {
            self = .threw(type: name, parcel)
        } else {
            self = .failed(type: "\(type(of: error))", text: "\(error)")
        }
    }

    /// Takes the reply's descriptor only if that is the result. Otherwise the reply closes it, however long that takes.
    init(_ reply: Zygote.Reply) throws {
        guard reply.bytes.elementsEqual(Self.returnedDescriptor) else {
            self = try Outcome(reply.bytes)
            return
        }
        self = try Outcome(reply.bytes, descriptors: reply.takeDescriptors())
    }

    private static let returnedDescriptor: [UInt8] = [0, 2]

    /// The error that the caller throws.
    func error(in system: IsolateSystem) -> any Error {
        switch self {
        case .threw(let name, let parcel):
            guard let type = _typeByName(name) as? any (Error & Codable).Type else {
                return ForkingError.invalid("this program has no error type '\(name)'")
            }
            do { return try parcel.open(type, in: system) } catch { return error }
        case .failed(let type, let text): return ForkingError.threw(type: type, description: text)
        case .returned, .returnedVoid:
            return ForkingError.invalid("the method returned something else than its caller expects")
        }
    }

    init(from reader: inout ByteReader) throws {
        switch try reader.byte() {
        case 0: self = .returned(try reader.parcel())
        case 1: self = .returnedVoid
        case 2: self = .threw(type: try reader.text(), try reader.parcel())
        case 3: self = .failed(type: try reader.text(), text: try reader.text())
        default: throw ByteReader.malformed
        }
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .returned(let parcel):
            writer.add(byte: 0)
            writer.add(parcel)
        case .returnedVoid: writer.add(byte: 1)
        case .threw(let type, let parcel):
            writer.add(byte: 2)
            writer.add(type)
            writer.add(parcel)
        case .failed(let type, let text):
            writer.add(byte: 3)
            writer.add(type)
            writer.add(text)
        }
    }
}

/// Takes the result of a distributed method. Used by the runtime, in the process that the actor lives in.
public final class IsolateResultHandler: DistributedTargetInvocationResultHandler {
    public typealias SerializationRequirement = Codable

    private let codec: any IsolateCodec
    private let result = Mutex<Outcome?>(nil)

    init(_ codec: any IsolateCodec) { self.codec = codec }

    var outcome: Outcome {
        result.withLock { $0 } ?? .failed(type: "ForkingError", text: "the method has neither returned nor thrown")
    }

    public func onReturn<Success: Codable>(value: Success) async throws {
        let parcel = try Parcel(value, codec)
        result.withLock { $0 = .returned(parcel) }
    }

    public func onReturnVoid() async throws { result.withLock { $0 = .returnedVoid } }

    public func onThrow<Err: Error>(error: Err) async throws {
        let outcome = Outcome(threw: error, codec)
        result.withLock { $0 = outcome }
    }
}
