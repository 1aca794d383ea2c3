// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// A request that came as one datagram, over UDP or a Unix datagram socket.
public struct Datagram: Sendable {
    /// What came, at most the server's `datagramLimit`.
    public let bytes: [UInt8]
    /// Whether it was longer than the server's `datagramLimit`, so that `bytes` is only its beginning.
    public let isTruncated: Bool
    /// Who sent it. A Unix client that wants an answer must have bound an address of its own.
    public let peer: SocketAddress
    /// The server's socket, which parent and children share; it stays the server's.
    public let socket: FileDescriptor

    /// Answers the sender, on the server's own socket. sendto(2).
    ///
    /// - Throws: `ForkingError.invalid` if the sender has no address to answer to, or `.system`.
    public func reply(_ bytes: [UInt8]) throws(ForkingError) {
        if peer.isUnix, peer.path == nil {
            throw .invalid("the sender's socket has no address, so it cannot be answered")
        }
        let code = peer.withSockaddr { forkcore_send_datagram(socket.rawValue, bytes, bytes.count, $0, $1) }
        try check(code, "sendto \(peer)")
    }
}
