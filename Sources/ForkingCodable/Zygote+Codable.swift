// SPDX-License-Identifier: Apache-2.0
//
// Calls with Codable values instead of bytes, encoded as JSON. A module of its own, because it needs Foundation, which
// makes each fork more expensive.

public import Forking
import ForkingAsync
import Foundation

extension Zygote.Handlers {
    /// Registers a handler that replies to a call, with values as input and output. It runs in a child.
    public mutating func answer<Input: Decodable, Output: Encodable>(
        _ name: String, _ input: Input.Type, _ handler: @escaping (Input) throws -> Output
    ) {
        answer(name) { request in
            Zygote.Reply(try bytes(of: try handler(try value(input, of: request.bytes))))
        }
    }
}

extension Zygote {
    /// Runs a handler in a child and awaits its reply. Cancelling the task kills the child. Host.
    ///
    /// `deadline`, `limits` and `maxReplyBytes` are those of `Zygote.runAndWait`.
    ///
    /// - Throws: `ForkingError`; `EncodingError` for `input`; `DecodingError` if the reply is not an `Output`.
    public func run<Input: Encodable, Output: Decodable>(
        _ name: String, _ input: Input, returning output: Output.Type, deadline: Duration? = nil,
        limits: ResourceLimits? = nil, maxReplyBytes: Int? = nil
    ) async throws -> Output {
        let reply = try await run(
            name, bytes(of: input), deadline: deadline, limits: limits, maxReplyBytes: maxReplyBytes)
        return try value(output, of: reply.bytes)
    }

    /// The same for a thread that may block.
    @available(*, noasync, message: "await run(_:_:returning:)")
    public func runAndWait<Input: Encodable, Output: Decodable>(
        _ name: String, _ input: Input, returning output: Output.Type, deadline: Duration? = nil,
        limits: ResourceLimits? = nil, maxReplyBytes: Int? = nil
    ) throws -> Output {
        let reply = try runAndWait(
            name, bytes(of: input), deadline: deadline, limits: limits, maxReplyBytes: maxReplyBytes)
        return try value(output, of: reply.bytes)
    }
}

private func bytes(of value: some Encodable) throws -> [UInt8] { Array(try JSONEncoder().encode(value)) }

private func value<Value: Decodable>(_ type: Value.Type, of bytes: [UInt8]) throws -> Value {
    try JSONDecoder().decode(type, from: Data(bytes))
}
