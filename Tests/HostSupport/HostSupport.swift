// SPDX-License-Identifier: Apache-2.0
//
// What the hosts of tests have in common.

package import Forking
import Foundation

package struct Failed: Error, CustomStringConvertible {
    package let description: String
    package init(_ description: String) { self.description = description }
}

package func expect(_ condition: Bool, _ text: @autoclosure () -> String, line: Int = #line) throws {
    if !condition { throw Failed("line \(line): \(text())") }
}

/// What Swift's traps raise.
#if arch(arm64)
    package let trapSignal = Signal.trap
#else
    package let trapSignal = Signal.illegalInstruction
#endif

/// Since the machine's start.
package func seconds() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// Runs one of a host's modes, as its arguments say: it prints `ok`, or says on stderr what went wrong, and exits.
package func runMode(of modes: [String: @Sendable (Int) async throws -> Void], _ end: () async throws -> Void) async {
    let arguments = CommandLine.arguments
    guard arguments.count >= 2, let mode = modes[arguments[1]] else {
        tell("usage: \(arguments[0]) \(modes.keys.sorted().joined(separator: "|")) [COUNT]")
        exit(64)
    }
    do {
        try await mode(arguments.count > 2 ? Int(arguments[2]) ?? 1 : 1)
        try await end()
        print("ok")
    } catch {
        tell("\(arguments[1]): \(error)")
        exit(1)
    }
}

private func tell(_ line: String) { FileHandle.standardError.write(Data("\(line)\n".utf8)) }

/// What a process holds, to be the same before and after.
package struct Holdings: CustomStringConvertible {
    package let descriptors: Int
    package let residentKiB: Int
    package let children: Int

    package init(_ pid: Int32) {
        descriptors = (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd").count) ?? -1
        let status = (try? String(contentsOfFile: "/proc/\(pid)/status", encoding: .utf8)) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") } ?? ""
        residentKiB = line.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? -1
        let all = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        children =
            all.filter { name in
                guard Int(name) != nil, let stat = try? String(contentsOfFile: "/proc/\(name)/stat", encoding: .utf8),
                    let end = stat.lastIndex(of: ")")
                else { return false }
                return stat[end...].split(separator: " ").dropFirst(2).first == "\(pid)"
            }.count
    }

    package var description: String { "\(descriptors) descriptors, \(residentKiB) KiB, \(children) children" }
}
