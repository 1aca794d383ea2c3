// SPDX-License-Identifier: Apache-2.0

import Glibc

// Addresses as people write them.

extension SocketAddress {
    /// Parses an address: `127.0.0.1:7777`, `[::1]:7777` or `unix:/run/x.sock`. `localhost:7777` means 127.0.0.1;
    /// `7777`, `:7777` and `*:7777` mean 0.0.0.0, all IPv4 addresses; `[::]:7777` means all IPv6 and IPv4 addresses. A
    /// prefix `tcp://` or `unix://` is allowed.
    ///
    /// - Throws: `ForkingError.Code.invalid`, whose description says what is expected.
    public init(parsing text: String) throws(ForkingError) {
        if text.hasPrefix("unix:") {
            try self.init(unix: Self.unixPath(in: text))
            return
        }
        try self.init(host: Self.withoutScheme(text), in: text)
    }

    /// The path or name in `unix:/run/x.sock`, or in the forms `unix:///run/x.sock` and `unix://@name`.
    package static func unixPath(in text: String) -> String {
        let path = text.dropFirst("unix:".count)
        return String(path.hasPrefix("///") || path.hasPrefix("//@") ? path.dropFirst(2) : path)
    }

    private static func withoutScheme(_ text: String) throws(ForkingError) -> Substring {
        guard !text.hasPrefix("vsock:") else {
            throw .invalid("'\(text)' is an address of vsock(7), which is not served; \(forms)")
        }
        let mark = "://"
        guard let range = text.firstRange(of: mark) else { return text[...] }
        let scheme = text[..<range.lowerBound]
        guard scheme == "tcp" else {
            throw .invalid("'\(scheme)://' in '\(text)' is neither tcp:// nor unix://; \(forms)")
        }
        return text[range.upperBound...]
    }

    /// `rest` is `text` without its scheme.
    private init(host rest: Substring, in text: String) throws(ForkingError) {
        let isPort = !rest.isEmpty && rest.utf8.allSatisfy(Self.isDigit)
        guard let colon = isPort ? rest.startIndex : rest.lastIndex(of: ":"), !rest.hasSuffix("]") else {
            throw .invalid("'\(text)' is not an address: \(Self.forms)")
        }
        var host = rest[..<colon]
        let digits = isPort ? rest : rest[rest.index(after: colon)...]
        guard !digits.isEmpty, digits.utf8.allSatisfy(Self.isDigit), let port = UInt16(digits) else {
            throw .invalid("'\(digits)' in '\(text)' is not a port: a number from 0 to 65535 is needed")
        }
        if host.hasPrefix("["), host.hasSuffix("]") {
            host = host.dropFirst().dropLast()
            guard host.contains(":") else {
                throw .invalid("'\(host)' is not a numeric IPv6 address such as ::1; \(Self.forms)")
            }
        } else if host.contains(":") {
            throw .invalid("the IPv6 address in '\(text)' needs brackets, as in [::1]:7777")
        }
        do {
            try self.init(ip: Self.numeric(host), port: port)
        } catch let error where error.code == .invalid {
            throw .invalid("\(error)\(Self.isName(host) ? ", and names are not looked up" : ""); \(Self.forms)")
        }
    }

    /// Resolves localhost and the wildcards; everything else must be numeric.
    private static func numeric(_ host: Substring) -> String {
        switch host {
        case "localhost": "127.0.0.1"
        case "", "*": "0.0.0.0"
        default: String(host)
        }
    }

    /// Whether this looks like a host name, which people may expect to be looked up.
    static func isName(_ host: Substring) -> Bool {
        host.utf8.contains { (0x61...0x7a).contains($0 | 0x20) } && !host.contains(":")
    }

    static func isDigit(_ byte: UInt8) -> Bool { (0x30...0x39).contains(byte) }

    static let forms = "expected something like 127.0.0.1:7777, [::1]:7777 or unix:/run/x.sock"
}
