// SPDX-License-Identifier: Apache-2.0
//
// How results are shown, to people and to programs. Without Foundation there is no format for numbers.

import ArgumentParser
import Glibc

/// Where the middle of the measurements lies, and most of them.
struct Spread: CustomStringConvertible {
    let median: Double
    let p10: Double
    let p90: Double

    init(_ values: [Double]) {
        let sorted = values.sorted()
        func quantile(_ share: Double) -> Double {
            let place = share * Double(sorted.count - 1)
            let below = Int(place)
            let above = min(below + 1, sorted.count - 1)
            return sorted[below] + (sorted[above] - sorted[below]) * (place - Double(below))
        }
        median = quantile(0.5)
        p10 = quantile(0.1)
        p90 = quantile(0.9)
    }

    var description: String { "\(figure(median)) (\(figure(p10))–\(figure(p90)))" }
}

/// As many decimals as a person reads: three digits.
func figure(_ number: Double) -> String {
    let places = number < 9.995 ? 2 : number < 99.95 ? 1 : 0
    return decimal(number, places: places)
}

/// A number that is not negative, with so many decimals.
func decimal(_ number: Double, places: Int = 2) -> String {
    let scale = (0..<places).reduce(1) { power, _ in power * 10 }
    let scaled = Int((number * Double(scale)).rounded())
    guard places > 0 else { return String(scaled) }
    let fraction = String(scaled % scale)
    return "\(scaled / scale)." + String(repeating: "0", count: places - fraction.count) + fraction
}

/// Lines of cells, one under the other.
struct TextTable {
    struct Column {
        let title: String
        let width: Int
        /// Words stand to the left, numbers to the right.
        var isLeft = false
    }

    let columns: [Column]

    var header: String { row(columns.map(\.title)) }

    /// Missing cells at the end are left out.
    func row(_ cells: [String]) -> String {
        var line = ""
        for (column, cell) in zip(columns, cells) {
            let blanks = String(repeating: " ", count: max(0, column.width - cell.count))
            line += (line.isEmpty ? "" : "  ") + (column.isLeft ? cell + blanks : blanks + cell)
        }
        return String(line.reversed().drop { $0 == " " }.reversed())
    }
}

/// A JSON object on a line, in the order in which its fields are added. Keys and words are this program's own and
/// plain, so nothing needs quoting.
struct JSONLine {
    private var fields: [String] = []

    var text: String { "{" + fields.joined(separator: ",") + "}" }

    mutating func add(_ key: String, _ word: String) { fields.append("\"\(key)\":\"\(word)\"") }
    mutating func add(_ key: String, _ number: Int) { fields.append("\"\(key)\":\(number)") }
    mutating func add(_ key: String, _ number: Double) { fields.append("\"\(key)\":\(decimal(number))") }

    /// The median under `key`, the rest under `key_p10` and `key_p90`.
    mutating func add(_ key: String, _ spread: Spread) {
        for (ending, number) in [("", spread.median), ("_p10", spread.p10), ("_p90", spread.p90)] {
            add(key + ending, number)
        }
    }
}

/// Where `--json` writes; `-` is stdout. Opened before anything is measured: a name that can't be written to is found
/// out at once.
final class JSONFile {
    private let path: String
    private let descriptor: Int32

    init(_ path: String) throws {
        self.path = path
        descriptor =
            path == "-"
            ? fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3) : open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else {
            let reason = String(cString: strerror(errno))
            throw ValidationError("--json \(path) can't be written (\(reason)): it must be a file that can")
        }
    }

    deinit { close(descriptor) }

    func write(_ line: JSONLine) throws {
        guard writeAll(line.text + "\n", to: descriptor) else { throw Shortage(call: "write \(path)") }
    }
}
