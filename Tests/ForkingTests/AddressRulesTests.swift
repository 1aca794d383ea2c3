// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Rules about addresses")
struct AddressRulesTests {
    private func rules(allow: [String] = [], deny: [String] = []) throws -> AddressRules {
        try AddressRules(
            allow: allow.map(AddressRange.init(parsing:)), deny: deny.map(AddressRange.init(parsing:)))
    }

    /// Which of these addresses may connect.
    private func allowed(_ addresses: [String], by rules: AddressRules) throws -> [String] {
        try addresses.filter { try rules.allows(peer($0)) }
    }

    private let unix = try! SocketAddress(unix: "/run/x")
    private let unknown = SocketAddress { (_, _) in }

    // MARK: Decisions

    @Test("without rules, everybody may connect") func none() throws {
        let rules = AddressRules()
        #expect(rules.entries.isEmpty && rules.allows(unix) && rules.allows(unknown))
        #expect(try allowed(["10.0.0.1", "::1", "::ffff:10.0.0.1"], by: rules).count == 3)
    }

    @Test("who is not mentioned may connect, unless somebody is allowed") func defaults() throws {
        let exceptions = try rules(deny: ["10.0.0.0/8"])
        #expect(try allowed(["10.0.0.1", "11.0.0.1", "::1"], by: exceptions) == ["11.0.0.1", "::1"])
        let members = try rules(allow: ["10.0.0.0/8"])
        #expect(try allowed(["10.0.0.1", "11.0.0.1", "::1"], by: members) == ["10.0.0.1"])
        let both = try rules(allow: ["10.0.0.0/8"], deny: ["10.1.0.0/16"])
        #expect(try allowed(["10.0.0.1", "10.1.0.1", "11.0.0.1", "::1"], by: both) == ["10.0.0.1"])
        #expect(exceptions.allows(unknown) && !members.allows(unknown))
    }

    @Test("clients of Unix sockets are always allowed") func unixSockets() throws {
        for rules in try [rules(allow: ["10.0.0.0/8"]), rules(deny: ["0.0.0.0/0", "::/0"])] {
            #expect(rules.allows(unix))
            #expect(try rules.allows(SocketAddress(unix: "@name")))
        }
    }

    @Test("the smallest range decides, in whatever order they were given") func longestMatch() throws {
        let ranges = [("10.0.0.0/8", true), ("10.1.0.0/16", false), ("10.1.2.0/24", true), ("10.1.2.3", false)]
        let addresses = ["10.0.0.1", "10.1.0.1", "10.1.2.1", "10.1.2.3", "11.0.0.0"]
        for order in [ranges, ranges.reversed(), [ranges[2], ranges[0], ranges[3], ranges[1]]] {
            let rules = try rules(allow: order.filter(\.1).map(\.0), deny: order.filter { !$0.1 }.map(\.0))
            #expect(try allowed(addresses, by: rules) == ["10.0.0.1", "10.1.2.1"])
        }
        let v6 = try rules(allow: ["::/0", "2001:db8::/65"], deny: ["2001:db8::/32", "2001:db8::1"])
        let others = ["::1", "2001:db8::1", "2001:db8::2", "2001:db8:1::", "1.2.3.4"]
        #expect(try allowed(others, by: v6) == ["::1", "2001:db8::2"])
    }

    @Test("a range that is allowed and denied is denied") func ties() throws {
        let rules = try rules(allow: ["10.0.0.0/8", "::1"], deny: ["10.0.0.0/8", "::1/128", "10.0.0.0/8"])
        #expect(rules.entries.count == 2)
        #expect(try allowed(["10.0.0.1", "::1", "11.0.0.0"], by: rules).isEmpty, "one was allowed, so no others are")
    }

    @Test("an IPv4 client of an IPv6 socket is an IPv4 client") func mapped() throws {
        let v4 = try rules(allow: ["10.0.0.0/8"], deny: ["10.1.0.0/16"])
        #expect(try allowed(["::ffff:10.0.0.1", "::ffff:10.1.0.1", "::ffff:11.0.0.1"], by: v4) == ["::ffff:10.0.0.1"])
        let v6 = try rules(deny: ["::/0"])
        let (theirs, others) = (["::ffff:10.0.0.1", "10.0.0.1"], ["::1", "::10.0.0.1"])
        #expect(try allowed(theirs + others, by: v6) == theirs)
        #expect(try rules(deny: ["::ffff:10.0.0.0/104"]) == rules(deny: ["10.0.0.0/8"]))
    }

    @Test("merged, they are the rules with the ranges of both") func merging() throws {
        let (a, b) = try (rules(allow: ["10.0.0.0/8"]), rules(deny: ["10.1.0.0/16", "10.0.0.0/8"]))
        let both = try rules(allow: ["10.0.0.0/8"], deny: ["10.1.0.0/16", "10.0.0.0/8"])
        #expect(a.merging(b) == both && b.merging(a) == both && both.merging(a) == both && both.merging(both) == both)
        #expect(a.merging(AddressRules()) == a && AddressRules().merging(a) == a)
        #expect(!a.merging(b).allowsOthers, "the allowed range is denied as well, and yet was given")
        #expect(try rules(deny: ["::1"]).merging(rules(deny: ["::2"])) == rules(deny: ["::2", "::1"]))
        #expect(a != b && a != AddressRules())
    }

    // MARK: Entries

    @Test("entries need no references, and little memory") func layout() {
        #expect(MemoryLayout<AddressRules.Entry>.stride == 24)
    }

    @Test("they are looked up in memory of another owner as well") func rawMemory() throws {
        let rules = try rules(allow: ["10.0.0.0/8", "::/0"], deny: ["10.1.0.0/16", "::1"])
        let memory = UnsafeMutableBufferPointer<AddressRules.Entry>.allocate(capacity: rules.entries.count)
        defer { memory.deallocate() }
        _ = memory.initialize(from: rules.entries)
        for ip in ["10.0.0.1", "10.1.0.1", "11.0.0.1", "::1", "::2"] {
            let answer = try AddressRules.allows(
                peer(ip), UnsafeBufferPointer(memory), allowsOthers: rules.allowsOthers)
            #expect(try answer == rules.allows(peer(ip)))
        }
        #expect(AddressRules.allows(unknown, UnsafeBufferPointer(start: nil, count: 0), allowsOthers: true))
    }

    @Test("a hundred thousand ranges are as good as a few") func many() throws {
        // Each other /24 of 10.0.0.0/8, and so on until there are enough; one address of each /24 is an exception.
        var (allow, deny): ([AddressRange], [AddressRange]) = ([], [])
        for number in 0..<50_000 {
            let (a, b, c) = (10 + number >> 15, number >> 7 & 255, number << 1 & 255)
            allow.append(try AddressRange(parsing: "\(a).\(b).\(c).0/24"))
            deny.append(try AddressRange(parsing: "\(a).\(b).\(c).7"))
        }
        let rules = AddressRules(allow: allow, deny: deny)
        #expect(rules.entries.count == 100_000)
        for number in stride(from: 0, to: 50_000, by: 97) {
            let (a, b, c) = (10 + number >> 15, number >> 7 & 255, number << 1 & 255)
            #expect(try rules.allows(peer("\(a).\(b).\(c).6")) && !rules.allows(peer("\(a).\(b).\(c).7")))
            #expect(try !rules.allows(peer("\(a).\(b).\(c + 1).6")))
        }
    }

    // MARK: Files

    @Test(
        "a file says the same, however it is written",
        arguments: [
            "allow 10.0.0.0/8\ndeny 10.1.0.0/16\n", "allow 10.0.0.0/8\ndeny 10.1.0.0/16",
            "deny 10.1.0.0/16\nallow 10.0.0.0/8\n", "allow 10.0.0.0/8\r\ndeny 10.1.0.0/16\r\n",
            "# who may\n\n  \t\nallow\t10.0.0.0/8\t# the office\n\t deny \t 10.1.0.0/16#guests\n#\n",
            "\n\nallow 10.0.0.0/8\n\r\n# deny 11.0.0.0/8\r\ndeny 10.1.0.0/16   \n\n",
            "allow 10.0.0.0/8\nallow 10.0.0.0/8\nallow 10.1.0.0/16\ndeny 10.1.0.0/16",
        ])
    func files(_ text: String) throws {
        let parsed = try AddressRules(parsing: text, file: "rules.txt")
        #expect(try parsed == rules(allow: ["10.0.0.0/8"], deny: ["10.1.0.0/16"]))
    }

    @Test("a file without a rule is no rules", arguments: ["", "\n", "#", "# allow 10.0.0.0/8\r\n\t\n"])
    func emptyFiles(_ text: String) throws {
        #expect(try AddressRules(parsing: text, file: "rules.txt") == AddressRules())
    }

    private static let form = "expected something like 'allow 10.0.0.0/8'"

    @Test(
        "says word by word what is wrong, and where",
        arguments: [
            ("permit 10.0.0.0/8", "rules.txt, line 1: 'permit' is neither 'allow' nor 'deny'; \(form)"),
            ("\n# x\r\nAllow 10.0.0.0/8\n", "rules.txt, line 3: 'Allow' is neither 'allow' nor 'deny'; \(form)"),
            ("10.0.0.0/8", "rules.txt, line 1: '10.0.0.0/8' is neither 'allow' nor 'deny'; \(form)"),
            ("allow ::1\ndeny", "rules.txt, line 2: 'deny' needs a range of addresses; \(form)"),
            ("deny # all", "rules.txt, line 1: 'deny' needs a range of addresses; \(form)"),
            (
                "allow ::1 ::2",
                "rules.txt, line 1: '::2' follows the range, and each range needs a line of its own; \(form)"
            ),
            (
                "allow ::1\n\ndeny 10.1.2.3/8\nwrong",
                "rules.txt, line 3: '10.1.2.3/8' has bits behind its prefix: the range is 10.0.0.0/8"
            ),
            (
                "deny all",
                "rules.txt, line 1: 'all' is not a numeric IP address, and names are not looked up; "
                    + "expected something like 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1"
            ),
            (
                "\u{feff}allow ::1",
                #"rules.txt, line 1: '\ufeffallow' is neither 'allow' nor 'deny'; \#(form)"#
            ),
            (
                "allow ::1\rdeny ::2",
                "rules.txt, line 1: 'deny' follows the range, and each range needs a line of its own; \(form)"
            ),
        ])
    func wrongLines(_ text: String, _ reason: String) {
        #expect(refusal { try AddressRules(parsing: text, file: "rules.txt") } == reason)
    }

    @Test("what stands in a file, or in its name, cannot break out of the line that quotes it") func printable() {
        let said = refusal { try AddressRules(parsing: "ok\u{1b}[2J\u{202e} ::1", file: "a\nb") }
        #expect(said == #"a\x0ab, line 1: 'ok\x1b[2J\u202e' is neither 'allow' nor 'deny'; \#(Self.form)"#)
        for line in ["allow \u{1b}", "allow ::/\u{1b}", "allow ::1 \u{1b}", "allow ::1%\u{1b}"] {
            let said = refusal { try AddressRules(parsing: line, file: "rules.txt") } ?? ""
            #expect(said.contains(#"\x1b"#) && !said.contains("\u{1b}"), "said: \(said)")
        }
        let long = refusal { try AddressRules(parsing: String(repeating: "x", count: 100_000), file: "rules.txt") }
        #expect((long ?? "").utf8.count < 1200)
    }
}
