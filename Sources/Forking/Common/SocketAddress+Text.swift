// SPDX-License-Identifier: Apache-2.0

// Addresses, and other text that peers choose, as people see them.

extension SocketAddress: CustomStringConvertible {
    /// The form that `init(parsing:)` reads; `unix: (unnamed)` for a Unix socket without a name, as most clients have.
    ///
    /// A peer chooses the name of its Unix socket, and the name appears in logs. Characters that could end a line or
    /// change how it is displayed are therefore escaped, as in `\x0a` and `\u202e`, and so are bytes that are not
    /// UTF-8.
    public var description: String {
        guard let ip, let port else {
            guard isUnix else { return "unknown" }
            return pathBytes.map { "unix:" + Self.printable(bytes: $0) } ?? "unix: (unnamed)"
        }
        return ip.contains(":") ? "[\(ip)]:\(port)" : "\(ip):\(port)"
    }

    /// Escapes characters that could end a line, control a terminal, or make a line look different from what it is:
    /// control, format, private-use and unassigned characters, line separators, and invisible characters. Truncates the
    /// text to `limit` characters.
    package static func printable(_ text: String, atMost limit: Int = .max) -> String {
        guard !isPlain(text.utf8, atMost: limit) else { return text }
        var shown = Shown(limit: limit)
        for character in text.unicodeScalars where !shown.append(character) { break }
        return shown.text
    }

    /// The same for bytes that may not be UTF-8.
    package static func printable(bytes: [UInt8]) -> String {
        if isPlain(bytes, atMost: .max) { return String(decoding: bytes, as: UTF8.self) }
        var shown = Shown(limit: .max)
        var rest = bytes[...]
        while let first = rest.first {
            if let (character, length) = Self.character(at: rest) {
                _ = shown.append(character)
                rest = rest.dropFirst(length)
            } else {
                shown.append(byte: first)
                rest = rest.dropFirst()
            }
        }
        return shown.text
    }

    /// Whether a character could end a line, is invisible, or is displayed as something else.
    package static func isSpelledOut(_ character: Unicode.Scalar) -> Bool {
        switch character.properties.generalCategory {
        case .control, .format, .lineSeparator, .paragraphSeparator, .privateUse, .unassigned, .surrogate: true
        default: character.properties.isDefaultIgnorableCodePoint
        }
    }

    /// The first character of bytes that may be UTF-8, and its length in bytes; nil if they do not start with one.
    package static func character(at bytes: ArraySlice<UInt8>) -> (Unicode.Scalar, Int)? {
        var iterator = bytes.makeIterator()
        var parser = Unicode.UTF8.ForwardParser()
        guard case .valid(let encoded) = parser.parseScalar(from: &iterator) else { return nil }
        return (UTF8.decode(encoded), encoded.count)
    }

    /// Whether the text is short enough and all printable ASCII, as almost all text is.
    private static func isPlain(_ bytes: some Collection<UInt8>, atMost limit: Int) -> Bool {
        var count = 0
        for byte in bytes {
            count += 1
            guard (0x20...0x7e).contains(byte), count <= limit else { return false }
        }
        return true
    }
}

private struct Shown {
    var text = ""
    let limit: Int
    var count = 0

    init(limit: Int) { self.limit = limit }

    /// Returns false if the limit was reached.
    mutating func append(_ character: Unicode.Scalar) -> Bool {
        guard count < limit else {
            text += "..."
            return false
        }
        count += 1
        if !SocketAddress.isSpelledOut(character) {
            text.unicodeScalars.append(character)
        } else if character.isASCII {
            append(byte: UInt8(character.value))
        } else {
            let isLong = character.value > 0xffff
            text += (isLong ? "\\U" : "\\u") + Self.hex(character.value, digits: isLong ? 8 : 4)
        }
        return true
    }

    mutating func append(byte: UInt8) { text += "\\x" + Self.hex(UInt32(byte), digits: 2) }

    private static func hex(_ number: UInt32, digits: Int) -> String {
        let text = String(number, radix: 16)
        return String(repeating: "0", count: max(0, digits - text.utf8.count)) + text
    }
}
