// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Ranges of addresses")
struct AddressRangeTests {
    @Test(
        "prints what it parsed",
        arguments: [
            "10.0.0.0/8", "0.0.0.0/0", "128.0.0.0/1", "192.0.2.254/31", "192.0.2.1", "255.255.255.255",
            "2001:db8::/32", "::/0", "8000::/1", "fe80::/10", "2001:db8:0:0:1::/80", "::1", "::2/127", "::1.2.3.4",
        ])
    func roundTrip(_ text: String) throws {
        let range = try AddressRange(parsing: text)
        #expect(range.description == text)
        #expect(try AddressRange(parsing: range.description) == range)
    }

    @Test(
        "has one form for what can be written in several",
        arguments: [
            ("192.0.2.1/32", "192.0.2.1"), ("::1/128", "::1"), ("10.0.0.0/08", "10.0.0.0/8"),
            ("2001:DB8:0:0::/32", "2001:db8::/32"), ("0:0:0:0:0:0:0:1", "::1"),
            ("::ffff:10.1.2.3", "10.1.2.3"), ("::ffff:10.0.0.0/104", "10.0.0.0/8"), ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:a01:203/128", "10.1.2.3"),
        ])
    func canonical(_ text: String, _ form: String) throws {
        let range = try AddressRange(parsing: text)
        #expect(range.description == form)
        #expect(try AddressRange(parsing: form) == range)
    }

    private static let forms = "expected something like 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1"

    @Test(
        "says word by word what is wrong",
        arguments: [
            ("", "'' is not a range of addresses; \(forms)"),
            ("10.1.2.3/8", "'10.1.2.3/8' has bits behind its prefix: the range is 10.0.0.0/8"),
            ("192.0.2.1/31", "'192.0.2.1/31' has bits behind its prefix: the range is 192.0.2.0/31"),
            ("1.2.3.4/0", "'1.2.3.4/0' has bits behind its prefix: the range is 0.0.0.0/0"),
            ("2001:db8::1/64", "'2001:db8::1/64' has bits behind its prefix: the range is 2001:db8::/64"),
            ("::ffff:10.1.2.3/104", "'::ffff:10.1.2.3/104' has bits behind its prefix: the range is 10.0.0.0/8"),
            (
                "10.0.0.0/33",
                "'33' in '10.0.0.0/33' is not a prefix: after an IPv4 address, a number from 0 to 32 is needed"
            ),
            ("::/129", "'129' in '::/129' is not a prefix: after an IPv6 address, a number from 0 to 128 is needed"),
            (
                "::ffff:0:0/95",
                "'95' in '::ffff:0:0/95' is not a prefix: "
                    + "after an IPv4-mapped IPv6 address, a number from 96 to 128 is needed"
            ),
            ("10.0.0/8", "'10.0.0' is not a numeric IP address; \(forms)"),
            ("host.example", "'host.example' is not a numeric IP address, and names are not looked up; \(forms)"),
            (
                "fe80::%lo/10",
                "'fe80::%lo/10' has a zone, and a range is of all zones: an address without '%' is needed"
            ),
        ])
    func refusals(_ text: String, _ reason: String) { #expect(refusal { try AddressRange(parsing: text) } == reason) }

    @Test(
        "a prefix is a number in digits",
        arguments: [
            "", " ", "x", "8 ", " 8", "+8", "-8", "0x8", "8.0", "٣", "8/8", "255.0.0.0", "99999999999999999999", "8\0",
        ])
    func prefixes(_ prefix: String) {
        for address in ["10.0.0.0", "2001:db8::", "::ffff:10.0.0.0"] {
            let said = refusal { try AddressRange(parsing: "\(address)/\(prefix)") } ?? "nothing"
            #expect(said.contains("' is not a prefix: "), "said: \(said)")
        }
    }

    @Test(
        "an address is numeric, and written as one usually is",
        arguments: [
            "/8", "10", "10/8", "10.0.0.0.0", "010.0.0.0/8", "256.0.0.0/8", " 10.0.0.0/8", "10.0.0.0\0", "::g/8",
            "[::1]", "[::1]/128", "10.0.0.1:80", ":", "1:2:3:4:5:6:7:8:9", "*", "unix:/run/x", "10.0.0.0-10.0.0.9",
        ])
    func addresses(_ text: String) {
        let said = refusal { try AddressRange(parsing: text) } ?? "nothing"
        #expect(said.contains("is not a numeric IP address"), "said: \(said)")
    }

    @Test("what is wrong cannot break out of the line that says so, nor fill the log")
    func printable() {
        let long = String(repeating: "x", count: 9999)
        for text in ["a\nb", "10.0.0.0/8\n", "10.0.0.0/\u{1b}[2J", "::1%\n", "\u{202e}", long, "::/" + long] {
            let said = refusal { try AddressRange(parsing: text) } ?? ""
            #expect(!said.isEmpty && !said.unicodeScalars.contains { $0.value < 0x20 || $0 == "\u{202e}" })
            #expect(said.utf8.count < 3000)
        }
    }

    @Test(
        "contains the addresses that begin as it does",
        arguments: [
            ("10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], ["9.255.255.255", "11.0.0.0", "a00::"]),
            ("0.0.0.0/0", ["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], ["::", "::1", "::1.2.3.4"]),
            ("192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1"], ["192.0.2.0", "192.0.2.2", "::192.0.2.1"]),
            ("2001:db8::/32", ["2001:db8::", "2001:db8:ffff::1"], ["2001:db7::", "2001:db9::", "32.1.13.184"]),
            ("2001:db8::/65", ["2001:db8::7fff:0:0:0"], ["2001:db8::8000:0:0:0", "2001:db8:0:1::"]),
            ("::/0", ["::", "ffff::", "::1.2.3.4"], ["0.0.0.0", "::ffff:1.2.3.4"]), ("::1", ["::1"], ["::", "::2"]),
            ("fe80::/10", ["fe80::1", "fe80::1%lo", "febf::"], ["fec0::"]),
            ("::ffff:10.0.0.0/104", ["10.9.9.9", "::ffff:10.9.9.9"], ["11.0.0.0", "::ffff:11.0.0.0"]),
        ])
    func containment(_ text: String, _ inside: [String], _ outside: [String]) throws {
        let range = try AddressRange(parsing: text)
        for ip in inside { #expect(try range.contains(peer(ip)), "\(ip)") }
        for ip in outside { #expect(try !range.contains(peer(ip)), "\(ip)") }
        #expect(try !range.contains(SocketAddress(unix: "/run/x")))
        #expect(!range.contains(SocketAddress { (_, _) in }))
    }

    @Test("a port does not matter") func ports() throws {
        let range = try AddressRange(parsing: "127.0.0.1")
        #expect(try range.contains(SocketAddress(parsing: "127.0.0.1:1")))
        #expect(try range.contains(SocketAddress(parsing: "127.0.0.1:65535")))
    }
}
