// SPDX-License-Identifier: Apache-2.0
//
// Arguments that benchmarks have in common. Each refusal says what is wrong and what would be right.

import ArgumentParser

func number(_ text: String, from least: Int, to most: Int) throws -> Int {
    guard let number = Int(text), (least...most).contains(number) else {
        throw ValidationError("it must be a whole number from \(least) to \(most)")
    }
    return number
}

/// Numbers with commas between them, each once.
func numbers(_ list: String, from least: Int, to most: Int) throws -> [Int] {
    unique(try words(list).map { try number($0, from: least, to: most) })
}

/// What stands between commas.
func words(_ list: String) -> [String] { list.split(separator: ",", omittingEmptySubsequences: false).map(String.init) }

func unique<Element: Hashable>(_ elements: [Element]) -> [Element] {
    var seen: Set<Element> = []
    return elements.filter { seen.insert($0).inserted }
}
