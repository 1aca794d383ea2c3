// SPDX-License-Identifier: Apache-2.0
//
// Host and child: what the host asks a child, and how a child calls actors of the host.

import Distributed
import Forking
import Synchronization
import SystemPackage

/// Host to child. The reply to `invocation` is an `Outcome`, that to `nextCallback` a `Callback`, others are empty.
enum HostMessage {
    /// A call of an actor of the child.
    case invocation(Invocation)
    /// Reply with the next call that the child has for the host, as soon as there is one.
    case nextCallback
    /// What became of a call of the child's.
    case result(UInt64, Outcome)

    func encoded() -> (bytes: [UInt8], descriptors: [FileDescriptor]) {
        var writer = ByteWriter()
        switch self {
        case .invocation(let invocation):
            let (bytes, descriptors) = invocation.encoded()
            return ([0] + bytes, descriptors)
        case .nextCallback: return ([1], [])
        case .result(let number, let outcome):
            let (bytes, descriptors) = outcome.encoded()
            writer.add(number)
            return ([2] + writer.bytes + bytes, descriptors)
        }
    }

    init(_ bytes: [UInt8], descriptors: [FileDescriptor]) throws {
        let rest = Array(bytes.dropFirst())
        switch bytes.first {
        case 0: self = .invocation(try Invocation(rest, descriptors: descriptors))
        case 1: self = .nextCallback
        case 2:
            var reader = ByteReader(rest)
            self = .result(try reader.number(), try Outcome(Array(rest.dropFirst(8)), descriptors: descriptors))
        default: throw ForkingError.invalid("malformed message from the host")
        }
    }
}

/// Child to host: a call of an actor of the host, or of another isolate.
struct Callback: Sendable {
    let number: UInt64
    let invocation: Invocation

    init(_ number: UInt64, _ invocation: Invocation) { (self.number, self.invocation) = (number, invocation) }

    init(_ bytes: [UInt8]) throws {
        var reader = ByteReader(bytes)
        number = try reader.number()
        invocation = try Invocation(Array(bytes.dropFirst(8)), descriptors: [])
    }

    func encoded() -> [UInt8] {
        var writer = ByteWriter()
        writer.add(number)
        return writer.bytes + invocation.encoded().bytes
    }
}

/// Child: its calls of the host's actors. They wait here until the host asks for them.
final class Callbacks: Sendable {
    private struct State {
        var next: UInt64 = 1
        var waiting: [Callback] = []
        var calls: [UInt64: CheckedContinuation<Outcome, any Error>] = [:]
        /// The host's question for the next call.
        var question: CheckedContinuation<[UInt8], Never>?
    }

    private let state = Mutex(State())

    /// Calls an actor of the host, and awaits what becomes of it.
    func call(_ invocation: Invocation, expecting count: Int) async throws -> Outcome {
        guard invocation.encoded().descriptors.isEmpty, count == 0 else {
            throw ForkingError.invalid("a child passes no descriptor to a host's actor, nor gets one from it")
        }
        let number = state.withLock { state in
            defer { state.next += 1 }
            return state.next
        }
        return try await withTaskCancellationHandler {
            try await withCheckedThrowingContinuation { continuation in
                let question = state.withLock { state -> CheckedContinuation<[UInt8], Never>? in
                    state.calls[number] = continuation
                    state.waiting.append(Callback(number, invocation))
                    return state.question.take()
                }
                if let question { answer(question) }
                if Task.isCancelled { finish(number, .failure(CancellationError())) }
            }
        } onCancel: {
            finish(number, .failure(CancellationError()))
        }
    }

    /// The host asks for the next call.
    func next() async -> [UInt8] {
        await withCheckedContinuation { answer($0) }
    }

    private func answer(_ question: CheckedContinuation<[UInt8], Never>) {
        let bytes: [UInt8]? = state.withLock { state in
            if !state.waiting.isEmpty { return state.waiting.removeFirst().encoded() }
            state.question = question
            return nil
        }
        if let bytes { question.resume(returning: bytes) }
    }

    func finish(_ number: UInt64, _ result: Result<Outcome, any Error>) {
        state.withLock { state in
            state.waiting.removeAll { $0.number == number }
            return state.calls.removeValue(forKey: number)
        }?.resume(with: result)
    }
}
