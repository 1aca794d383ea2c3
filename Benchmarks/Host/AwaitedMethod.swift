// SPDX-License-Identifier: Apache-2.0

import Dispatch
public import Forking
import Synchronization

/// A method whose calls are awaited, and that not every host has, because of what it links.
public struct AwaitedMethod: Sendable {
    public typealias Call = @Sendable ([UInt8]) async throws -> [UInt8]

    let name: String
    let register: @Sendable (inout Zygote.Handlers, @escaping Work) -> Void
    let begin: @Sendable (Zygote) async throws -> Call

    /// - Parameters:
    ///   - register: runs before the zygote is forked.
    ///   - begin: makes what is called again and again.
    public init(
        _ name: String, register: @escaping @Sendable (inout Zygote.Handlers, @escaping Work) -> Void,
        begin: @escaping @Sendable (Zygote) async throws -> Call
    ) {
        (self.name, self.register, self.begin) = (name, register, begin)
    }

    /// As `CallTally.measure`, but each caller is a task. There is no watch for hangs: `forkbench zygote` gives up a
    /// host that takes too long.
    func measured(_ tally: CallTally, _ zygote: Zygote) throws -> CallTally {
        try Self.measured(tally) { try await begin(zygote) }
    }

    /// The same for any method.
    static func measured(_ tally: CallTally, _ begin: @escaping @Sendable () async throws -> Call) throws -> CallTally {
        let done = DispatchSemaphore(value: 0)
        let result = Mutex(Result<CallTally, any Error>.success(tally))
        Task.detached {
            do {
                let call = try await begin()
                let tallies = await withTaskGroup(of: CallTally.self) { group in
                    for _ in 0..<tally.callers { group.addTask { await tally.measured(call) } }
                    return await group.reduce(into: []) { $0.append($1) }
                }
                let all = CallTally(tallies)
                result.withLock { $0 = .success(all) }
            } catch {
                result.withLock { $0 = .failure(error) }
            }
            done.signal()
        }
        done.wait()
        return try result.withLock { try $0.get() }
    }
}

extension CallTally {
    fileprivate func measured(_ call: AwaitedMethod.Call) async -> CallTally {
        var tally = self
        while !tally.isDone {
            let start = ContinuousClock.now
            do {
                let bytes = try await call(Self.request)
                tally.add(.success(CallAnswer(bytes: bytes, at: .now)), from: start)
            } catch {
                tally.add(.failure(error), from: start)
            }
            if pause > 0 { try? await Task.sleep(for: .microseconds(pause)) }
        }
        return tally
    }
}
