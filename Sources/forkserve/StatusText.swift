// SPDX-License-Identifier: Apache-2.0
//
// The process of `forkserve status`, or a parent that got SIGUSR1: formats a status. Acts on nothing.

import Forking

/// A status for people: a line about the server, and one per process.
enum StatusTable {
    private struct Column {
        let name: String
        var isText = false
        let cells: [String?]
    }

    /// - Parameters:
    ///   - memory: of each process, in KiB; nil if it was not read.
    ///   - started: the descendants of each process.
    static func text(_ status: ServerStatus, memory: [Int?]? = nil, started: [[ProcessID]] = []) -> String {
        let processes = status.processes
        guard !processes.isEmpty else { return ([heading(status)] + sources(status)).joined(separator: "\n") }
        var columns = [
            Column(name: "PID", cells: processes.map { "\($0.pid)" }),
            Column(name: "STATE", isText: true, cells: processes.map(\.state.rawValue)),
            Column(name: "FOR", cells: processes.map { $0.inState.map(time) }),
            Column(name: "AGE", cells: processes.map { time($0.age) }),
            Column(name: "PEER", isText: true, cells: processes.map { $0.peer.map { "\($0)" } }),
        ]
        if let memory { columns.insert(Column(name: "MEMORY", cells: memory.map { $0.map(size) }), at: 4) }
        if started.contains(where: { !$0.isEmpty }) {
            columns.insert(Column(name: "STARTED", cells: started.map { "\($0.count)" }), at: columns.count - 1)
        }
        if status.shape == .prefork {
            columns.insert(Column(name: "REQUESTS", cells: processes.map { $0.requests.map { "\($0)" } }), at: 2)
            columns.insert(Column(name: "NUMBER", cells: processes.map { $0.number.map { "\($0)" } }), at: 1)
        }
        return ([heading(status)] + lines(columns) + sources(status)).joined(separator: "\n")
    }

    private static func sources(_ status: ServerStatus) -> [String] {
        guard !status.sources.isEmpty else { return [] }
        return lines([
            Column(name: "SOURCE", isText: true, cells: status.sources.map(\.name)),
            Column(name: "CHILDREN", cells: status.sources.map { "\($0.children)" }),
            Column(name: "PENALTY", cells: status.sources.map { $0.penalty > .zero ? time($0.penalty) : nil }),
            Column(name: "NOW", isText: true, cells: status.sources.map { $0.isRefused ? "refused" : "served" }),
        ])
    }

    /// `prefork server 1234 on 127.0.0.1:7777, serving for 3.2 s, workers: 2 of 4`
    private static func heading(_ status: ServerStatus) -> String {
        let place = status.addresses.map(\.description).joined(separator: ", ")
        let kind = status.shape == .forking ? "children" : "workers"
        let wanted = status.wanted ?? status.maxProcesses
        return "\(status.shape.rawValue) server \(status.pid)" + (place.isEmpty ? "" : " on \(place)")
            + (status.phase == .serving ? ", serving for " : ", stopping after ") + time(status.age)
            + ", \(kind): \(status.processes.count) of \(wanted)"
            + (wanted < status.maxProcesses ? ", at most \(status.maxProcesses)" : "")
    }

    /// Aligns names and numbers in columns; each line has the same number of words.
    private static func lines(_ columns: [Column]) -> [String] {
        let filled = columns.map { column in
            let cells = [column.name] + column.cells.map { $0 ?? "-" }
            let width = cells.map(\.count).max() ?? 0
            return cells.map { cell in
                let space = String(repeating: " ", count: width - cell.count)
                return column.isText ? cell + space : space + cell
            }
        }
        return (filled.first ?? []).indices.map { row in
            let line = filled.map { $0[row] }.joined(separator: "  ")
            return String(line[..<(line.lastIndex { $0 != " " }.map { line.index(after: $0) } ?? line.startIndex)])
        }
    }

    private static func time(_ time: Duration) -> String {
        let seconds = time.inNanoseconds / 1_000_000_000
        return switch seconds {
        case ..<100: tenths(time.inNanoseconds / 100_000_000) + "s"
        case ..<6000: "\(seconds / 60)min"
        case ..<360_000: "\(seconds / 3600)h"
        default: "\(seconds / 86_400)d"
        }
    }

    private static func size(_ kib: Int) -> String {
        kib < 1024 ? "\(kib)KiB" : tenths(Int64(kib) * 10 / 1024) + "MiB"
    }

    private static func tenths(_ number: Int64) -> String { "\(number / 10).\(number % 10)" }
}

/// A status for programs: one object, on one line. RFC 8259.
enum StatusJSON {
    /// - Parameters:
    ///   - memory: of each process, in KiB.
    ///   - started: the descendants of each process.
    static func text(_ status: ServerStatus, memory: [Int?], started: [[ProcessID]]) -> String {
        object([
            ("shape", string(status.shape.rawValue)),
            ("pid", "\(status.pid)"),
            ("addresses", array(status.addresses.map(string))),
            ("phase", string(status.phase.rawValue)),
            ("age_seconds", seconds(status.age)),
            ("limit", "\(status.maxProcesses)"),
            ("wanted", status.wanted.map { "\($0)" }),
            (
                "sources",
                array(
                    status.sources.map { source in
                        object([
                            ("name", string(source.name)), ("children", "\(source.children)"),
                            ("penalty_seconds", seconds(source.penalty)), ("refused", "\(source.isRefused)"),
                        ])
                    })
            ),
            ("processes", array(status.processes.indices.map { text(status.processes[$0], memory[$0], started[$0]) })),
        ])
    }

    private static func text(_ process: ServerStatus.Process, _ memory: Int?, _ started: [ProcessID]) -> String {
        object([
            ("pid", "\(process.pid)"),
            ("number", process.number.map { "\($0)" }),
            ("state", string(process.state.rawValue)),
            ("requests", process.requests.map { "\($0)" }),
            ("in_state_seconds", process.inState.map(seconds)),
            ("age_seconds", seconds(process.age)),
            ("memory_kib", memory.map { "\($0)" }),
            ("peer", process.peer.map(string)),
            ("started", array(started.map { "\($0)" })),
        ])
    }

    private static func object(_ members: [(String, String?)]) -> String {
        "{" + members.map { string($0) + ":" + ($1 ?? "null") }.joined(separator: ",") + "}"
    }

    private static func array(_ elements: [String]) -> String { "[" + elements.joined(separator: ",") + "]" }

    private static func seconds(_ time: Duration) -> String {
        let milliseconds = time.inNanoseconds / 1_000_000
        let fraction = "\(milliseconds % 1000)"
        return "\(milliseconds / 1000)." + String(repeating: "0", count: 3 - fraction.utf8.count) + fraction
    }

    /// The unescaped address, because programs may want to connect to it; a description is for logs.
    private static func string(_ address: SocketAddress) -> String {
        string(address.isUnix ? "unix:" + (address.path ?? "") : address.description)
    }

    static func string(_ text: String) -> String {
        var quoted = "\""
        for character in text.unicodeScalars {
            switch character {
            case "\"", "\\": quoted += "\\\(character)"
            case _ where SocketAddress.isSpelledOut(character):
                for unit in UTF16.encode(character)! {
                    let digits = String(unit, radix: 16)
                    quoted += "\\u" + String(repeating: "0", count: 4 - digits.utf8.count) + digits
                }
            default: quoted.unicodeScalars.append(character)
            }
        }
        return quoted + "\""
    }
}
