// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

/// A peer with this numeric IP address.
func peer(_ ip: String) throws -> SocketAddress { try SocketAddress(ip: ip, port: 50_000) }

@Suite("Keys of addresses")
struct AddressKeyTests {
    private func key(_ ip: String) throws -> AddressKey { try #require(AddressKey(peer(ip))) }

    @Test("an address as numbers: IPv4 in the upper bits, so that prefixes are alike") func numbers() throws {
        let v4 = try key("10.1.2.3")
        #expect(v4.family == 4 && v4.high == 0x0a01_0203_0000_0000 && v4.low == 0 && v4.width == 32)
        let v6 = try key("2001:db8:1:2:3:4:5:6")
        #expect(v6.family == 6 && v6.high == 0x2001_0db8_0001_0002 && v6.low == 0x0003_0004_0005_0006)
        #expect(v6.width == 128)
    }

    @Test("an IPv4-mapped address is the IPv4 address, and no other is") func mapped() throws {
        #expect(try key("::ffff:10.1.2.3") == key("10.1.2.3") && key("::ffff:0.0.0.0") == key("0.0.0.0"))
        for other in ["::10.1.2.3", "::ffff:0:10.1.2.3", "1::ffff:10.1.2.3", "::fffe:10.1.2.3", "::1:ffff:a01:203"] {
            #expect(try key(other).family == 6, "\(other)")
        }
    }

    @Test("no port, no zone; and no key for what is not IP") func others() throws {
        #expect(try key("fe80::1%lo") == key("fe80::1"))
        #expect(try AddressKey(SocketAddress(ip: "::1", port: 1)) == AddressKey(SocketAddress(ip: "::1", port: 2)))
        #expect(try AddressKey(SocketAddress(unix: "/run/x")) == nil)
        #expect(AddressKey(SocketAddress { (_, _) in }) == nil)
    }

    @Test("a mask leaves the first bits") func masks() throws {
        let v4 = try key("255.255.255.255")
        for (prefix, text) in [(0, "0.0.0.0"), (1, "128.0.0.0"), (9, "255.128.0.0"), (31, "255.255.255.254")] {
            #expect(v4.masked(to: prefix).text == text)
        }
        #expect(v4.masked(to: 32) == v4 && v4.masked(to: 128) == v4)
        let v6 = try key("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
        for (prefix, text) in [
            (0, "::"), (1, "8000::"), (63, "ffff:ffff:ffff:fffe::"), (64, "ffff:ffff:ffff:ffff::"),
            (65, "ffff:ffff:ffff:ffff:8000::"), (127, "ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe"),
        ] {
            #expect(v6.masked(to: prefix).text == text)
        }
        #expect(v6.masked(to: 128) == v6)
    }

    @Test("they sort as addresses do, IPv4 first") func order() throws {
        let sorted = ["0.0.0.0", "9.255.0.0", "10.0.0.0", "255.0.0.0", "::", "::1", "1::", "1::1", "ffff::"]
        #expect(try sorted.reversed().map(key).sorted().map(\.text) == sorted)
    }
}
