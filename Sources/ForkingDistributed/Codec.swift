// SPDX-License-Identifier: Apache-2.0

import Distributed
import Foundation

/// How values become bytes. It must be the same in the host and its isolates. Any process, any thread.
///
/// `[UInt8]`, `Data`, `String` and `FileDescriptor` as arguments and results do not go through it: bytes are passed as
/// they are, a text as UTF-8, and a descriptor as a duplicate in the other process.
public protocol IsolateCodec: Sendable {
    /// Encodes an argument, a result, or an error.
    func encode<Value: Encodable>(_ value: Value) throws -> [UInt8]
    /// Decodes what `encode` has returned.
    ///
    /// - Parameters:
    ///   - type: the type of the value.
    ///   - bytes: the encoded value.
    ///   - system: belongs into the decoder's `userInfo`, for `.actorSystemKey`: distributed actors that are arguments or
    ///     results are decoded by it.
    func decode<Value: Decodable>(_ type: Value.Type, from bytes: [UInt8], for system: IsolateSystem) throws -> Value
}

/// JSON, by Foundation.
public struct JSONIsolateCodec: IsolateCodec {
    /// Creates a codec.
    public init() {}

    private static let encoder = JSONEncoder()

    public func encode<Value: Encodable>(_ value: Value) throws -> [UInt8] { Array(try Self.encoder.encode(value)) }

    public func decode<Value: Decodable>(
        _ type: Value.Type, from bytes: [UInt8], for system: IsolateSystem
    ) throws -> Value {
        let decoder = JSONDecoder()
        decoder.userInfo[.actorSystemKey] = system
        return try decoder.decode(type, from: Data(bytes))
    }
}
