// SPDX-License-Identifier: Apache-2.0

import Dispatch
import Subprocess
import Synchronization
import SystemPackage

/// The package swift-subprocess, called as its README has it: `run` returns when the program has ended.
struct SubprocessMethod {
    static let name = "swift-subprocess"
    private let configuration: Configuration

    init(_ program: [String]) {
        configuration = Configuration(
            executable: .path(FilePath(program[0])), arguments: Arguments(Array(program.dropFirst())))
    }

    /// As `CallTally.measure`, but in a task. There is no watch for hangs: `forkbench zygote` gives up a host that
    /// takes too long.
    func measured(_ tally: CallTally) -> CallTally {
        let done = DispatchSemaphore(value: 0)
        let result = Mutex(tally)
        Task.detached {
            var tally = tally
            while !tally.isDone {
                let start = ContinuousClock.now
                do {
                    tally.add(.success(try await call(CallTally.request)), from: start)
                } catch {
                    tally.add(.failure(error), from: start)
                }
            }
            result.withLock { [tally] in $0 = tally }
            done.signal()
        }
        done.wait()
        return result.withLock { $0 }
    }

    private func call(_ request: [UInt8]) async throws -> CallAnswer {
        let result = try await Subprocess.run(configuration, input: .array(request), output: .bytes(limit: 4096))
        return CallAnswer(bytes: result.standardOutput, at: .now)
    }
}
