// SPDX-License-Identifier: Apache-2.0

import Subprocess
import SystemPackage

/// The package swift-subprocess, called as its README has it: `run` returns when the program has ended.
struct SubprocessMethod {
    static let name = "swift-subprocess"
    private let configuration: Configuration

    init(_ program: [String]) {
        configuration = Configuration(
            executable: .path(FilePath(program[0])), arguments: Arguments(Array(program.dropFirst())))
    }

    /// As `CallTally.measure`.
    func measured(_ tally: CallTally) throws -> CallTally {
        try AwaitedMethod.measured(tally) { { try await call($0) } }
    }

    private func call(_ request: [UInt8]) async throws -> [UInt8] {
        let result = try await Subprocess.run(configuration, input: .array(request), output: .bytes(limit: 4096))
        return result.standardOutput
    }
}
