// SPDX-License-Identifier: Apache-2.0
//
// Measures the library. No Foundation, and one thread: both would make every fork dearer, and the numbers would be
// theirs.

import ArgumentParser
import CForkbench
import Forking
import Glibc

struct Forkbench: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "forkbench",
        abstract: "Measures forking and reaping, and servers that do it.",
        subcommands: [Reap.self, ZygoteCommand.self, Serve.self, Prefork.self, LoadCommand.self]
    )
}

@main
enum Main {
    static func main() {
        do {
            var command = try Forkbench.parseAsRoot()
            try command.run()
        } catch let shortage as Shortage {
            end(shortage.description, EX_OSERR)
        } catch let refusal as ForkingError {
            end(refusal.description, EX_OSERR)
        } catch let interruption as Interruption {
            Progress.clear()
            forkbench_die_by(interruption.signal)
        } catch let status as ExitCode {
            exit(status.rawValue)
        } catch {
            guard Forkbench.exitCode(for: error) != .success else { Forkbench.exit(withError: error) }  // --help
            let reason = Forkbench.message(for: error).split(separator: "\n").first ?? "wrong usage"
            end("\(reason) (see forkbench --help)", EX_USAGE)
        }
    }

    private static func end(_ line: String, _ status: Int32) -> Never {
        writeAll("forkbench: \(line)\n", to: STDERR_FILENO)
        exit(status)
    }
}

/// What this machine, or its limits, did not give.
struct Shortage: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }

    /// For a call that has just failed.
    init(call: String) { self.init(call, errno) }

    init(_ call: String, _ code: Int32) { self.init("\(call): \(String(cString: strerror(code)))") }
}

@discardableResult
func writeAll(_ text: String, to descriptor: Int32) -> Bool {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
        let count = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { return false }
        rest = rest.dropFirst(count)
    }
    return true
}
