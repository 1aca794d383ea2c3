// SPDX-License-Identifier: Apache-2.0

/// Where a socket's file is, byte for byte: not every path is text.
struct SocketPath: CustomStringConvertible {
    /// With its NUL.
    let c: [CChar]
    private let bytes: [UInt8]

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
        c = (bytes + [0]).map(CChar.init(bitPattern:))
    }

    var description: String { SocketAddress.printable(bytes: bytes) }

    /// Its directory's.
    var parent: SocketPath {
        guard let slash = bytes.lastIndex(of: UInt8(ascii: "/")) else { return SocketPath(Array(".".utf8)) }
        return SocketPath(Array(bytes[..<max(slash, 1)]))
    }
}
