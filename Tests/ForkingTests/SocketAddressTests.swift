// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import TestSupport
import Testing

@testable import Forking

/// What a body throws, as text; nil if it throws nothing.
func refusal<R: ~Copyable>(_ body: () throws -> R) -> String? {
    do {
        _ = try body()
        return nil
    } catch {
        return "\(error)"
    }
}

/// As `#expect`, which cannot look into what is not copyable.
func expectEqual<Value: Equatable>(
    _ value: Value, _ expected: Value, sourceLocation: SourceLocation = #_sourceLocation
) {
    #expect(value == expected, sourceLocation: sourceLocation)
}

@Suite("SocketAddress")
struct SocketAddressTests {
    @Test(
        "prints what it parsed",
        arguments: [
            "127.0.0.1:7777", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:7777", "[::]:0", "[2001:db8::1:0:0:1]:80",
            "[fe80::1%lo]:9", "unix:/run/x.sock", "unix:relative", "unix:/with space:and:colons", "unix:@abstract",
            "unix:@@at", "unix:/ünï/çødé",
        ])
    func roundTrip(_ text: String) throws {
        let address = try SocketAddress(parsing: text)
        #expect(address.description == text)
        #expect(try SocketAddress(parsing: address.description) == address)
    }

    @Test("takes apart what it parsed")
    func parts() throws {
        let v4 = try SocketAddress(parsing: "10.1.2.3:00080")
        #expect(v4.ip == "10.1.2.3" && v4.port == 80 && v4.path == nil && !v4.isUnix)
        let v6 = try SocketAddress(ip: "::1", port: 65535)
        #expect(v6.ip == "::1" && v6.port == 65535 && v6.path == nil && !v6.isUnix)
        let unix = try SocketAddress(unix: "/run/x")
        #expect(unix.ip == nil && unix.port == nil && unix.path == "/run/x" && unix.isUnix)
        #expect(try SocketAddress(unix: "@name").path == "@name")
    }

    @Test(
        "says what is wrong",
        arguments: [
            ("", "'' is not an address"), ("localhost", "'localhost' is not an address"),
            ("localhost.:80", "'localhost.' is not a numeric IP"),
            ("a.host:80", "names are not looked up; expected something like"), ("70000", "'70000' is not a port"),
            ("tcp://", "'tcp://' is not an address"), ("http://[::1]:80", "'http://' in 'http://[::1]:80' is neither"),
            ("vsock:2:80", "vsock(7), which is not served"), ("tcp://a:b:80", "needs brackets"),
            ("127.0.0.1:", "'' in '127.0.0.1:' is not a port"),
            ("127.0.0.1:x", "is not a port"), ("127.0.0.1:-1", "is not a port"), ("127.0.0.1:+1", "is not a port"),
            ("127.0.0.1: 1", "is not a port"), ("127.0.0.1:65536", "is not a port: a number from 0 to 65535"),
            ("127.0.0.1:99999999999999999999", "is not a port"), ("127.0.0.1:٣", "is not a port"),
            ("::1:7777", "needs brackets, as in [::1]:7777"), ("[::1", "needs brackets"),
            ("[::1]", "'[::1]' is not an address: "), ("[::1]7777", "'1]7777' in '[::1]7777' is not a port"),
            ("[]:80", "'' is not a numeric IP"), ("[::g]:80", "'::g' is not a numeric IP"),
            ("256.0.0.1:80", "is not a numeric IP"), ("127.1:80", "is not a numeric IP"),
            ("1.2.3.4%lo:80", "is not a numeric IP"), ("[fe80::1%no-such-if]:80", "no network interface 'no-such-if'"),
            ("[fe80::1%]:80", "no network interface ''"), ("[%lo]:80", "is not a numeric IP"),
            ("[127.0.0.1]:80", "is not a numeric IPv6"), ("unix:", "a Unix socket needs a path"),
            ("unix:@", "a Unix socket needs a path"), ("unix:/a\0b", "NUL byte"), ("unix:@a\0b", "NUL byte"),
        ])
    func refusals(_ text: String, _ reason: String) {
        let said = refusal { try SocketAddress(parsing: text) } ?? "nothing"
        #expect(said.contains(reason), "said: \(said)")
        #expect(!said.contains("\n"))
    }

    @Test("an address with a NUL byte is no address")
    func nul() {
        #expect(refusal { try SocketAddress(ip: "127.0.0.1\0.evil", port: 1) }?.contains("NUL byte") == true)
        #expect(refusal { try SocketAddress(ip: "::1\0", port: 1) }?.contains("NUL byte") == true)
        #expect(refusal { try SocketAddress(ip: "::1%lo\0x", port: 1) } != nil)
    }

    @Test(
        "takes what people type",
        arguments: [
            ("localhost:80", "127.0.0.1:80"), ("80", "0.0.0.0:80"), (":80", "0.0.0.0:80"), ("*:80", "0.0.0.0:80"),
            ("0", "0.0.0.0:0"), ("tcp://127.0.0.1:80", "127.0.0.1:80"), ("tcp://[::1]:80", "[::1]:80"),
            ("tcp://:80", "0.0.0.0:80"), ("unix:///run/x", "unix:/run/x"), ("unix://@name", "unix:@name"),
        ])
    func typed(_ text: String, _ meant: String) throws {
        #expect(try SocketAddress(parsing: text).description == meant)
    }

    @Test("a path is kept byte for byte, text or not")
    func bytes() throws {
        let path = Array("/run/".utf8) + [0xff, 0x41, 0xc3]
        let address = try SocketAddress(unix: path)
        #expect(address.pathBytes == path && address.path == "/run/\u{fffd}A\u{fffd}" && !address.isAbstract)
        #expect(address.description == #"unix:/run/\xffA\xc3"#)
        #expect(try SocketAddress(unix: [UInt8(ascii: "@"), 0xfe]).pathBytes == [UInt8(ascii: "@"), 0xfe])
        #expect(address.file.map { strlen($0.c) } == path.count)
        #expect(try SocketAddress(unix: "@name").file == nil)
        #expect(refusal { try SocketAddress(unix: path + path.dropFirst(5) + [0]) }?.contains("NUL byte") == true)
    }

    @Test("a file whose name begins as an abstract one is not taken for one")
    func atSign() throws {
        let file = SocketAddress { storage, length in
            var unix = sockaddr_un()
            unix.sun_family = sa_family_t(AF_UNIX)
            unix.sun_path.0 = 0x40
            unix.sun_path.1 = 0x78
            withUnsafeBytes(of: unix) {
                UnsafeMutableRawPointer(storage).copyMemory(from: $0.baseAddress!, byteCount: $0.count)
            }
            length.pointee = socklen_t(MemoryLayout<sa_family_t>.size + 3)
        }
        #expect(file.path == "./@x" && !file.isAbstract)
        #expect(try SocketAddress(unix: "@x").isAbstract)
    }

    @Test("a scope can be given by number")
    func scopeByNumber() throws {
        #expect(try SocketAddress(ip: "fe80::1%\(if_nametoindex("lo"))", port: 1).ip == "fe80::1%lo")
        // One that has no name is printed as a number, and is read again.
        #expect(try SocketAddress(ip: "fe80::1%4000000000", port: 1).ip == "fe80::1%4000000000")
    }

    @Test("a path may have 107 bytes, and an abstract name as well")
    func lengths() throws {
        for prefix in ["/", "@"] {
            let bytes = prefix == "@" ? 107 : 106
            let longest = prefix + String(repeating: "x", count: bytes)
            #expect(try SocketAddress(unix: longest).path == longest)
            let said = refusal { try SocketAddress(unix: longest + "x") }
            #expect(said?.contains("has 108 bytes, and the path of a Unix socket can have 107") == true)
        }
        // In bytes, not in characters.
        #expect(refusal { try SocketAddress(unix: String(repeating: "ü", count: 54)) } != nil)
        #expect(refusal { try SocketAddress(unix: String(repeating: "ü", count: 53)) } == nil)
    }

    @Test("an IPv4 client of an IPv6 socket is given as IPv4")
    func mapped() throws {
        let mapped = try SocketAddress(ip: "::ffff:10.0.0.1", port: 80)
        #expect(mapped.ip == "10.0.0.1")
        #expect(mapped.description == "10.0.0.1:80")
        #expect(try SocketAddress(ip: "::ffff:0:1.2.3.4", port: 1).ip != "1.2.3.4")
        #expect(try SocketAddress(ip: "::1.2.3.4", port: 1).ip == "::1.2.3.4")
    }

    @Test("equal addresses hash alike, different ones differ")
    func equality() throws {
        let texts = [
            "127.0.0.1:1", "127.0.0.1:2", "127.0.0.2:1", "[::1]:1", "[::1]:2", "[fe80::1%lo]:1", "[fe80::1]:1",
            "unix:/a",
            "unix:/b", "unix:/ab", "unix:@a", "unix:a",
        ]
        let all = Set(try texts.map(SocketAddress.init(parsing:)) + texts.map(SocketAddress.init(parsing:)))
        #expect(all.count == texts.count)
    }

    @Test("what a peer calls itself cannot break out of a log line")
    func controlCharacters() throws {
        let address = try SocketAddress(unix: "@x\nforkserve: all is well\u{1B}[2J\u{7F}")
        #expect(address.path == "@x\nforkserve: all is well\u{1B}[2J\u{7F}")
        #expect(address.description == #"unix:@x\x0aforkserve: all is well\x1b[2J\x7f"#)
    }

    @Test(
        "nor can it look other than it is",
        arguments: [
            ("\u{202e}", #"\u202e"#), ("\u{2028}", #"\u2028"#), ("\u{2029}", #"\u2029"#), ("\u{200b}", #"\u200b"#),
            ("\u{feff}", #"\ufeff"#), ("\u{85}", #"\u0085"#), ("\u{e000}", #"\ue000"#), ("\u{378}", #"\u0378"#),
            ("\u{e0041}", #"\U000e0041"#), ("\u{3164}", #"\u3164"#), ("é", "é"), ("漢", "漢"), ("\\", "\\"),
        ])
    func formatCharacters(_ character: String, _ shown: String) throws {
        #expect(try SocketAddress(unix: "/a\(character)b").description == "unix:/a\(shown)b")
        #expect(SocketAddress.printable("a\(character)b") == "a\(shown)b")
    }

    @Test("what others say is cut off where it is too much")
    func bounded() {
        #expect(SocketAddress.printable("abcdef", atMost: 6) == "abcdef")
        #expect(SocketAddress.printable("abcdef", atMost: 5) == "abcde...")
        #expect(SocketAddress.printable("\u{1b}\u{1b}\u{1b}", atMost: 2) == #"\x1b\x1b..."#)
    }

    @Test("an unnamed peer and no address at all have a description")
    func unnamed() throws {
        let unnamed = SocketAddress { storage, length in
            storage.pointee.ss_family = sa_family_t(AF_UNIX)
            length.pointee = socklen_t(MemoryLayout<sa_family_t>.size)
        }
        #expect(unnamed.description == "unix: (unnamed)" && unnamed.isUnix && unnamed.path == nil)
        let none = SocketAddress { (_, _) in }
        #expect(none.description == "unknown" && !none.isUnix && none.ip == nil && none.port == nil)
        #expect(none != unnamed)
    }
}
