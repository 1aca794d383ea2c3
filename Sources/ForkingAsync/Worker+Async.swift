// SPDX-License-Identifier: Apache-2.0

import Dispatch
public import Forking

extension Worker {
    /// Runs asynchronous code in a worker's body, which is synchronous: blocks the first thread until `body` has ended,
    /// and gives what it returned or threw.
    ///
    /// The first thread is the main actor's, and it waits: nothing in `body` may await what runs on the main actor.
    /// Concurrency's threads start here, in the worker; were there any in the parent, `body` would never run.
    public func run<Value: Sendable>(_ body: @escaping @Sendable () async throws -> Value) throws -> Value {
        try waiting(for: body)
    }
}

/// Child, worker: runs asynchronous code off the main actor, and blocks this thread until it has ended.
func waiting<Value: Sendable>(for body: @escaping @Sendable () async throws -> Value) throws -> Value {
    let outcome = Outcome<Value>()
    Task.detached {
        do {
            outcome.set(.success(try await body()))
        } catch {
            outcome.set(.failure(error))
        }
    }
    return try outcome.wait().get()
}

/// What a task hands to the thread that waits for it.
private final class Outcome<Value: Sendable>: @unchecked Sendable {
    private let isSet = DispatchSemaphore(value: 0)
    private var value: Result<Value, any Error>?

    func set(_ value: Result<Value, any Error>) {
        self.value = value
        isSet.signal()
    }

    func wait() -> Result<Value, any Error> {
        isSet.wait()
        return value!
    }
}
