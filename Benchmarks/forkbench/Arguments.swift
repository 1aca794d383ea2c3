// SPDX-License-Identifier: Apache-2.0

import ArgumentParser

/// Numbers with commas between them.
struct Counts: ExpressibleByArgument, CustomStringConvertible {
    let values: [Int]
    var description: String { values.map(String.init).joined(separator: ",") }
    var defaultValueDescription: String { description }

    init(_ values: [Int]) { self.values = values }

    init?(argument: String) {
        let numbers = argument.split(separator: ",", omittingEmptySubsequences: false).map { Int($0) }
        // 4,194,304 is the most processes that Linux has numbers for.
        guard numbers.allSatisfy({ $0.map { (0..<4_194_304).contains($0) } ?? false }) else { return nil }
        values = numbers.compactMap { $0 }
    }
}
