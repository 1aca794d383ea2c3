// SPDX-License-Identifier: Apache-2.0
//
// Calls with values instead of bytes, as JSON. In a module of its own, as it needs Foundation, which makes each fork
// dearer.

public import Forking
import ForkingAsync
import Foundation

extension Zygote.Handlers {
    /// Child: answers a call whose request and answer are values.
    public mutating func answer<Input: Decodable, Output: Encodable>(
        _ name: String, _ input: Input.Type, _ handler: @escaping (Input) throws -> Output
    ) {
        answer(name) { request in
            Zygote.Reply(try bytes(of: try handler(try value(input, of: request.bytes))))
        }
    }
}

extension Zygote {
    /// Has a child run a handler, and awaits its answer. Cancelling the task kills the child.
    ///
    /// `deadline`, `limits` and `maxReplyBytes` are those of `begin`.
    ///
    /// - Throws: `ForkingError`; an `EncodingError`, or a `DecodingError` if the answer is no `Output`.
    public func run<Input: Encodable, Output: Decodable>(
        _ name: String, _ input: Input, returning output: Output.Type, deadline: Duration? = nil,
        limits: ResourceLimits? = nil, maxReplyBytes: Int? = nil
    ) async throws -> Output {
        let reply = try await run(
            name, bytes(of: input), deadline: deadline, limits: limits, maxReplyBytes: maxReplyBytes)
        return try value(output, of: reply.bytes)
    }

    /// The same, on a thread that may wait.
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
