// SPDX-License-Identifier: Apache-2.0

/// A range of IP addresses: all that begin with the same bits. Any process.
///
/// As text: `10.0.0.0/8`, `2001:db8::/32`, and `192.0.2.1` or `::1` for one address. Ports and zones do not matter:
/// `fe80::/10` contains the link-local addresses of all network interfaces.
///
/// The address of an IPv4 client is IPv4 here, whether its listener is an IPv4 or an IPv6 socket. So only IPv4 ranges
/// contain it, and `::/0` does not.
public struct AddressRange: Hashable, Sendable, BitwiseCopyable {
    /// The first address: all bits behind the prefix are 0.
    let key: AddressKey
    /// How many bits all addresses of the range have in common: 0 to 32, or to 128 for IPv6.
    let prefix: UInt8

    /// The range of all addresses whose first `prefix` bits are those of `key`.
    init(_ key: AddressKey, prefix: Int) {
        (self.key, self.prefix) = (key.masked(to: prefix), UInt8(min(prefix, key.width)))
    }

    /// Whether the range contains the address. It contains no Unix socket.
    public func contains(_ address: SocketAddress) -> Bool {
        AddressKey(address).map(contains) ?? false
    }

    func contains(_ address: AddressKey) -> Bool {
        address.family == key.family && address.masked(to: Int(prefix)) == key
    }
}

extension AddressRange: CustomStringConvertible {
    /// The form that `init(parsing:)` reads. A single address has no prefix, and an IPv6 address is compressed.
    public var description: String { prefix == key.width ? key.text : "\(key.text)/\(prefix)" }
}

// MARK: - Parsing

extension AddressRange {
    /// Parses a range: `10.0.0.0/8`, `2001:db8::/32`, or an address, which stands for itself alone.
    ///
    /// The address must be the first of the range, because `10.1.2.3/8` could be meant as 10.0.0.0/8 or as 10.1.2.3.
    /// The IPv4-mapped range `::ffff:10.0.0.0/104` is 10.0.0.0/8.
    ///
    /// - Throws: `ForkingError.Code.invalid`, whose description says what is expected.
    public init(parsing text: String) throws(ForkingError) {
        let shown = ForkingError.printable(text)
        guard !text.isEmpty else { throw .invalid("'' is not a range of addresses; \(Self.forms)") }
        guard !text.utf8.contains(UInt8(ascii: "%")) else {
            throw .invalid("'\(shown)' has a zone, and a range is of all zones: an address without '%' is needed")
        }
        let slash = text.utf8.firstIndex(of: UInt8(ascii: "/"))
        let host = text[..<(slash ?? text.endIndex)]
        // The port does not matter.
        guard let address = try? SocketAddress(ip: String(host), port: 0), let key = AddressKey(address) else {
            let shown = ForkingError.printable(String(host))
            let hint = SocketAddress.isName(host) ? ", and names are not looked up" : ""
            throw .invalid("'\(shown)' is not a numeric IP address\(hint); \(Self.forms)")
        }
        guard let slash else {
            self.init(key, prefix: key.width)
            return
        }
        let form = Form(key, writtenAs: host)
        let digits = text[text.utf8.index(after: slash)...]
        guard let prefix = form.prefix(in: digits) else {
            let wrong = ForkingError.printable(String(digits))
            throw .invalid("'\(wrong)' in '\(shown)' is not a prefix: \(form.expectation)")
        }
        self.init(key, prefix: prefix)
        guard self.key == key else { throw .invalid("'\(shown)' has bits behind its prefix: the range is \(self)") }
    }

    private static let forms = "expected something like 10.0.0.0/8, 2001:db8::/32 or 192.0.2.1"
}

/// How an address was written, which decides what prefixes it can have.
private enum Form {
    case v4, v6, mapped

    init(_ key: AddressKey, writtenAs host: Substring) {
        self = key.family == 6 ? .v6 : host.utf8.contains(UInt8(ascii: ":")) ? .mapped : .v4
    }

    /// The prefixes. A shorter one of an IPv4-mapped address would be of addresses that are not IPv4 as well.
    private var bounds: ClosedRange<Int> {
        switch self {
        case .v4: 0...32
        case .v6: 0...128
        case .mapped: 96...128
        }
    }

    /// The prefix in bits of the address as its key has it; nil if it is not a prefix.
    func prefix(in digits: Substring) -> Int? {
        guard digits.utf8.allSatisfy(SocketAddress.isDigit), let prefix = Int(digits), bounds.contains(prefix) else {
            return nil
        }
        return self == .mapped ? prefix - 96 : prefix
    }

    var expectation: String {
        let kind =
            switch self {
            case .v4: "IPv4"
            case .v6: "IPv6"
            case .mapped: "IPv4-mapped IPv6"
            }
        return "after an \(kind) address, a number from \(bounds.lowerBound) to \(bounds.upperBound) is needed"
    }
}
