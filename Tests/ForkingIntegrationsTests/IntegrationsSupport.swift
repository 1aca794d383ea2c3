// SPDX-License-Identifier: Apache-2.0

import TestSupport

/// A servicehost, and what it has said.
final class Host {
    let running: Running
    private(set) var lines: [String] = []

    init(_ arguments: [String]) throws {
        running = try Running(builtProgram("servicehost"), arguments, deadline: 30)
    }

    /// Reads on until a line begins with `start` and has `part` in it, and returns that line.
    @discardableResult
    func expect(_ start: String, _ part: String = "") throws -> String {
        while let line = try running.line() {
            lines.append(line)
            if line.hasPrefix(start), line.contains(part) { return line }
        }
        throw Failure("no line '\(start) … \(part)' came:\n\(lines.joined(separator: "\n"))\n\(running.errors)")
    }

    /// Reads the rest, and expects the end, with status 0.
    func expectEnd() throws {
        while let line = try running.line() { lines.append(line) }
        try TestSupport.expect(try running.wait() == 0, "\(lines.joined(separator: "\n"))\n\(running.errors)")
        try running.expectNothingAlive()
    }

    /// Where a line stands that was read, the last if there are several.
    func place(of start: String, _ part: String = "") throws -> Int {
        guard let place = lines.lastIndex(where: { $0.hasPrefix(start) && $0.contains(part) }) else {
            throw Failure("no line '\(start) … \(part)':\n\(lines.joined(separator: "\n"))")
        }
        return place
    }

    /// The last value of a metric.
    func value(_ metric: String) -> Int? {
        lines.last { $0.hasPrefix(metric + " ") }.flatMap { Int($0.dropFirst(metric.utf8.count + 1)) }
    }

    /// Which metrics were made more than once, of those that were made.
    var madeTwice: [String] {
        Dictionary(grouping: lines.filter { $0.hasPrefix("made ") }) { $0 }.filter { $0.value.count > 1 }.map(\.key)
    }
}

/// What a line of the log says of a key.
func value(_ key: String, in line: String) throws -> String {
    guard let field = line.split(separator: " ").first(where: { $0.hasPrefix(key + "=") }) else {
        throw Failure("no '\(key)' in: \(line)")
    }
    return String(field.dropFirst(key.utf8.count + 1))
}

func pid(in line: String) throws -> Int32 { Int32(try value("pid", in: line))! }
