// SPDX-License-Identifier: Apache-2.0

/// The path of a socket's file, byte for byte, because a path need not be UTF-8.
struct SocketPath: CustomStringConvertible {
    /// With its terminating NUL.
    let c: [CChar]
    private let bytes: [UInt8]

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
        c = (bytes + [0]).map(CChar.init(bitPattern:))
    }

    var description: String { SocketAddress.printable(bytes: bytes) }

    /// The path of its directory.
    var parent: SocketPath {
        guard let slash = bytes.lastIndex(of: UInt8(ascii: "/")) else { return SocketPath(Array(".".utf8)) }
        return SocketPath(Array(bytes[..<max(slash, 1)]))
    }
}
