// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Rules about addresses, at random")
struct AddressRulesPropertyTests {
    /// A rule as bytes, and what it should mean.
    private struct NaiveRule {
        let bytes: [UInt8]
        let prefix: Int
        let isAllowed: Bool

        func contains(_ address: [UInt8]) -> Bool {
            guard address.count == bytes.count else { return false }
            let (whole, rest) = (prefix / 8, prefix % 8)
            guard address[..<whole] == bytes[..<whole] else { return false }
            return rest == 0 || address[whole] >> UInt8(8 - rest) == bytes[whole] >> UInt8(8 - rest)
        }

        var text: String { "\(AddressRulesPropertyTests.text(bytes))/\(prefix)" }

        static func allows(_ address: [UInt8], _ rules: [NaiveRule]) -> Bool {
            let matching = rules.filter { $0.contains(address) }
            guard let longest = matching.map(\.prefix).max() else { return !rules.contains(where: \.isAllowed) }
            return matching.allSatisfy { $0.prefix != longest || $0.isAllowed }
        }
    }

    private static func text(_ bytes: [UInt8]) -> String {
        if bytes.count == 4 { return bytes.map { String($0) }.joined(separator: ".") }
        let groups = stride(from: 0, to: 16, by: 2).map { UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1]) }
        return groups.map { String($0, radix: 16) }.joined(separator: ":")
    }

    /// An address of few different bytes, so that many have the same beginning.
    private func bytes(_ random: inout FixedGenerator) -> [UInt8] {
        (0..<(Bool.random(using: &random) ? 4 : 16)).map { index in
            // Never IPv4-mapped, which is an address of the other family.
            index == 0 ? [1, 2].randomElement(using: &random)! : [0, 1, 0x7f, 0x80].randomElement(using: &random)!
        }
    }

    private func rule(_ random: inout FixedGenerator) -> NaiveRule {
        var bytes = bytes(&random)
        let prefix = Int.random(in: 0...bytes.count * 8, using: &random)
        for bit in prefix..<bytes.count * 8 { bytes[bit / 8] &= ~(0x80 >> UInt8(bit % 8)) }
        return NaiveRule(bytes: bytes, prefix: prefix, isAllowed: Bool.random(using: &random))
    }

    @Test("they decide as a loop over all of them does") func naive() throws {
        var random = FixedGenerator(state: 1)
        var (answers, matches) = ([true: 0, false: 0], 0)
        for round in 0..<400 {
            // Some rounds have few rules, some no range that is allowed; some rules are there twice, or both ways.
            var given = (0..<Int.random(in: 0...100, using: &random)).map { _ in rule(&random) }
            if round % 4 == 0 { given.removeAll(where: \.isAllowed) }
            for again in given.filter({ _ in Int.random(in: 0..<8, using: &random) == 0 }) {
                given.append(
                    NaiveRule(bytes: again.bytes, prefix: again.prefix, isAllowed: round % 4 != 0 && !again.isAllowed))
            }
            let text = given.map { "\($0.isAllowed ? "allow" : "deny") \($0.text)" }.joined(separator: "\n")
            let rules = try AddressRules(parsing: text, file: "rules.txt")
            for _ in 0..<50 {
                // Half of them begin as one of the rules.
                var address = bytes(&random)
                if let like = given.randomElement(using: &random), Bool.random(using: &random) {
                    address = like.bytes
                    for bit in like.prefix..<address.count * 8 where Bool.random(using: &random) {
                        address[bit / 8] |= 0x80 >> UInt8(bit % 8)
                    }
                }
                let expected = NaiveRule.allows(address, given)
                let isMapped = address.count == 4 && Bool.random(using: &random)
                let client = try peer((isMapped ? "::ffff:" : "") + Self.text(address))
                let answer = rules.allows(client)
                answers[answer]! += 1
                if given.contains(where: { $0.contains(address) }) { matches += 1 }
                guard answer != expected else { continue }
                Issue.record("\(client): \(answer), and should be \(expected), by\n\(text)")
                return
            }
        }
        #expect(answers[true]! > 2000 && answers[false]! > 2000 && matches > 5000, "\(answers), \(matches) by a range")
    }

    /// Single bytes, and what makes some texts almost ranges or rules: three times as often.
    private static let pieces: [[UInt8]] = {
        let single = "0123456789abcdef.:/%# \tallowdeny\n\r\0".utf8.map { [$0] } + [[0xff], [0xc3]]
        let words = [
            "allow ", "deny ", "\nallow ", "\ndeny ", "10.0.0.0", "2001:db8::", "::ffff:", "::", "/8", "/32", "/128",
            "é",
        ]
        return single + [words, words, words].joined().map { Array($0.utf8) }
    }()

    private func noise(_ random: inout FixedGenerator) -> String {
        var bytes: [UInt8] = []
        for _ in 0..<Int.random(in: 0...10, using: &random) { bytes += Self.pieces.randomElement(using: &random)! }
        return String(decoding: bytes, as: UTF8.self)
    }

    @Test("whatever the parsers are given, they read it or refuse it by one line") func fuzz() throws {
        var random = FixedGenerator(state: 2)
        var (ranges, files) = (0, 0)
        for _ in 0..<100_000 {
            let text = noise(&random)
            do throws(ForkingError) {
                let range = try AddressRange(parsing: text)
                ranges += 1
                #expect(try AddressRange(parsing: range.description) == range)
            } catch { expectOneLine(error, about: text) }
            do throws(ForkingError) {
                let rules = try AddressRules(parsing: text, file: "rules.txt")
                if !rules.entries.isEmpty { files += 1 }
            } catch { expectOneLine(error, about: text) }
        }
        #expect(ranges > 100 && files > 100, "\(ranges) ranges and \(files) files were valid")
    }

    private func expectOneLine(_ error: ForkingError, about text: String) {
        let said = error.description
        guard error.code != .invalid || said.isEmpty || said.utf8.contains(where: { $0 < 0x20 }) else { return }
        Issue.record("of \(text.debugDescription) it said \(said.debugDescription)")
    }
}
