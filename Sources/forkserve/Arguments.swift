// SPDX-License-Identifier: Apache-2.0
//
// Any of forkserve's processes. Reads the arguments, and acts on nothing.

import CForkCore
import Forking
import Glibc
import SystemPackage

/// The arguments of forkserve. They come from C, because Swift reads them from /proc, which may be missing.
///
/// Arguments need not be UTF-8, but a parser of command lines needs text. So a byte that is no part of a character
/// becomes one of the last 256 code points, which have no meaning, and is converted back where it is used.
enum Arguments {
    /// The program's own name comes first.
    static var vector: UnsafeBufferPointer<UnsafeMutablePointer<CChar>?> {
        var count: Int32 = 0
        let start = forkcore_arguments(&count)
        return UnsafeBufferPointer(start: start, count: Int(count))
    }

    static var texts: [String] {
        vector.dropFirst().compactMap {
            $0.map { text(of: Array(UnsafeRawBufferPointer(start: $0, count: strlen($0)))) }
        }
    }

    private static let first: UInt32 = 0x10ff00

    static func text(of bytes: [UInt8]) -> String {
        if let text = String(validating: bytes, as: UTF8.self),
            !text.unicodeScalars.contains(where: { $0.value >= first })
        {
            return text
        }
        var text = String.UnicodeScalarView()
        var rest = bytes[...]
        while let byte = rest.first {
            if let (character, length) = SocketAddress.character(at: rest), character.value < first {
                text.append(character)
                rest = rest.dropFirst(length)
            } else {
                text.append(Unicode.Scalar(first + UInt32(byte))!)
                rest = rest.dropFirst()
            }
        }
        return String(text)
    }

    static func bytes(of text: String) -> [UInt8] {
        text.unicodeScalars.reduce(into: []) { bytes, character in
            if character.value >= first {
                bytes.append(UInt8(character.value - first))
            } else {
                bytes += UTF8.encode(character)!
            }
        }
    }
}

extension SocketAddress {
    /// An address of the command line, whose path need not be UTF-8.
    init(argument text: String) throws(ForkingError) {
        guard text.hasPrefix("unix:") else {
            try self.init(parsing: text)
            return
        }
        try self.init(unix: Arguments.bytes(of: Self.unixPath(in: text)))
    }
}
