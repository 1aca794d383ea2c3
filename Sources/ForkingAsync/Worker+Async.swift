// SPDX-License-Identifier: Apache-2.0
//
// Worker: its first thread waits while Dispatch's threads run the code.

import Dispatch
public import Forking

extension Worker {
    /// Runs asynchronous code in a worker's body, which is synchronous. Blocks the first thread until `body` has ended,
    /// and returns or throws its result. Worker, first thread.
    ///
    /// `body` must not await the main actor, which runs on that blocked thread. Concurrency's threads start here, in
    /// the worker. If the parent already had any, `body` would never run.
    public func run<Value: Sendable>(_ body: @escaping @Sendable () async throws -> Value) throws -> Value {
        try waiting(for: body)
    }
}

/// Worker: runs asynchronous code off the main actor, with the caller's task-local values, and blocks the calling thread
/// until it has ended.
func waiting<Value: Sendable>(for body: @escaping @Sendable () async throws -> Value) throws -> Value {
    let outcome = Outcome<Value>()
    Task(priority: .medium) {
        do {
            outcome.set(.success(try await body()))
        } catch {
            outcome.set(.failure(error))
        }
    }
    return try outcome.wait().get()
}

/// The result that a task passes to the thread that waits for it.
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
