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

extension Zygote.Handlers {
    /// Registers an isolate, with values as arguments, input and output. Both closures run in the child.
    public mutating func isolate<Arguments: Decodable, Input: Decodable, Output: Encodable>(
        _ name: String, _ arguments: Arguments.Type, _ input: Input.Type,
        _ make: @escaping (Arguments) throws -> (Input) throws -> Output
    ) {
        isolate(name) { request in
            let handler = try make(try value(arguments, of: request.bytes))
            return { Zygote.Reply(try bytes(of: try handler(try value(input, of: $0.bytes)))) }
        }
    }
}

extension Zygote {
    /// Starts an isolate and awaits the start of its child. Cancelling the task kills the child. Host.
    ///
    /// `configuration` and `deadline` are those of `Zygote.isolateAndWait`.
    nonisolated(nonsending) public func isolate(
        _ name: String, arguments: some Encodable, configuration: Isolate.Configuration = Isolate.Configuration(),
        deadline: Duration? = nil
    ) async throws -> Isolate {
        try await isolate(name, bytes(of: arguments), configuration: configuration, deadline: deadline)
    }

    /// The same for a thread that may block.
    @available(*, noasync, message: "await isolate(_:arguments:)")
    public func isolateAndWait(
        _ name: String, arguments: some Encodable, configuration: Isolate.Configuration = Isolate.Configuration(),
        deadline: Duration? = nil
    ) throws -> Isolate {
        try isolateAndWait(name, bytes(of: arguments), configuration: configuration, deadline: deadline)
    }
}

extension Zygote.Isolate {
    /// Has the child answer a call, and awaits the reply. Host.
    ///
    /// `deadline` and `maxReplyBytes` are those of `runAndWait`.
    ///
    /// - Throws: `ForkingError`; `EncodingError` for `input`; `DecodingError` if the reply is not an `Output`.
    nonisolated(nonsending) public func run<Output: Decodable>(
        _ input: some Encodable, returning output: Output.Type, deadline: Duration? = nil, maxReplyBytes: Int? = nil
    ) async throws -> Output {
        let reply = try await run(bytes(of: input), deadline: deadline, maxReplyBytes: maxReplyBytes)
        return try value(output, of: reply.bytes)
    }

    /// The same for a thread that may block.
    @available(*, noasync, message: "await run(_:returning:)")
    public func runAndWait<Output: Decodable>(
        _ input: some Encodable, returning output: Output.Type, deadline: Duration? = nil, maxReplyBytes: Int? = nil
    ) throws -> Output {
        let reply = try runAndWait(bytes(of: input), deadline: deadline, maxReplyBytes: maxReplyBytes)
        return try value(output, of: reply.bytes)
    }
}

private func bytes(of value: some Encodable) throws -> [UInt8] { Array(try JSONEncoder().encode(value)) }

private func value<Value: Decodable>(_ type: Value.Type, of bytes: [UInt8]) throws -> Value {
    try JSONDecoder().decode(type, from: Data(bytes))
}
