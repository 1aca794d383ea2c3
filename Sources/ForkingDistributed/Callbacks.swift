// SPDX-License-Identifier: Apache-2.0
//
// Host and child: what the host asks a child, and how a child calls actors of the host.

import Distributed
import Forking
import Synchronization
import SystemPackage

/// Host to child. The reply to `invocation` is an `Outcome`, that to `nextCallback` a `Callback`, others are empty.
enum HostMessage: Transfer {
    /// A call of an actor of the child.
    case invocation(Invocation)
    /// Reply with the next call that the child has for the host, as soon as there is one.
    case nextCallback
    /// What became of a call of the child's.
    case result(UInt64, Outcome)

    init(from reader: inout ByteReader) throws {
        switch try reader.byte() {
        case 0: self = .invocation(try Invocation(from: &reader))
        case 1: self = .nextCallback
        case 2: self = .result(try reader.number(), try Outcome(from: &reader))
        default: throw ByteReader.malformed
        }
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .invocation(let invocation):
            writer.add(byte: 0)
            invocation.write(to: &writer)
        case .nextCallback: writer.add(byte: 1)
        case .result(let number, let outcome):
            writer.add(byte: 2)
            writer.add(number)
            outcome.write(to: &writer)
        }
    }
}

/// Child to host: a call of an actor of the host, or of another isolate.
struct Callback: Transfer {
    let number: UInt64
    let invocation: Invocation

    init(_ number: UInt64, _ invocation: Invocation) { (self.number, self.invocation) = (number, invocation) }

    init(from reader: inout ByteReader) throws {
        number = try reader.number()
        invocation = try Invocation(from: &reader)
    }

    func write(to writer: inout ByteWriter) {
        writer.add(number)
        invocation.write(to: &writer)
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
        guard !invocation.hasDescriptors, count == 0 else {
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
            if !state.waiting.isEmpty { return state.waiting.removeFirst().encoded().bytes }
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
