// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// A request that came as one datagram, over UDP or a Unix datagram socket.
public struct Datagram: Sendable {
    /// What came, at most the server's `maxDatagramBytes`.
    public private(set) var bytes: [UInt8]
    /// Whether it was longer than the server's `maxDatagramBytes`, so that `bytes` is only its beginning.
    public let isTruncated: Bool
    /// Who sent it. A Unix client that wants an answer must have bound an address of its own.
    public let peer: SocketAddress

    /// Which of the server's addresses it was sent to.
    let destination: forkcore_destination
    /// How an answer goes.
    let way: Way

    enum Way {
        /// On the server's own socket.
        case socket(Int32)
        /// By the parent of the child that serves it, which has the other end of this channel.
        case parent(Int32)
    }

    init(
        _ bytes: [UInt8], isTruncated: Bool, peer: SocketAddress, to destination: forkcore_destination, way: Way
    ) {
        self.bytes = bytes
        self.isTruncated = isTruncated
        self.peer = peer
        self.destination = destination
        self.way = way
    }

    /// Answers the sender, from the address that it asked. In a child of `ForkingServer` the parent sends it, and says
    /// what became of that; elsewhere it is sent at once. sendmsg(2).
    ///
    /// Nobody waits for the sender to read: where it has no room, this throws `.system` with
    /// `Errno.resourceTemporarilyUnavailable`, and the answer is lost as a datagram may be.
    ///
    /// - Throws: `ForkingError.Code.invalid` if the sender has no address to answer to, or `.system`; with
    ///   `Errno.brokenPipe` if the server does not serve any more.
    public func reply(_ bytes: [UInt8]) throws(ForkingError) {
        if peer.isUnix, peer.path == nil {
            throw .invalid("the sender's socket has no address, so it cannot be answered")
        }
        let code =
            switch way {
            case .socket(let socket): send(bytes, on: socket)
            case .parent(let channel): Self.askParent(toSend: bytes, on: channel)
            }
        try check(code, "sendmsg \(peer)")
    }

    /// Child: asks the parent to send `bytes`, and waits for the result. Returns 0 or an errno.
    private static func askParent(toSend bytes: [UInt8], on channel: Int32) -> Int32 {
        var answer: Int32 = 0
        var size = 0
        var code = forkcore_send_all(channel, [0] + bytes, bytes.count + 1)
        if code == 0 { code = forkcore_receive(channel, &answer, MemoryLayout<Int32>.size, &size) }
        return code != 0 ? code : size == MemoryLayout<Int32>.size ? answer : EPIPE
    }

    private func send(_ bytes: [UInt8], on socket: Int32) -> Int32 {
        var destination = destination
        return peer.withSockaddr { forkcore_send_datagram(socket, bytes, bytes.count, $0, $1, &destination) }
    }

    /// Parent: what one client sent, no other one's child is to find in its memory.
    mutating func wipe() {
        bytes.withUnsafeMutableBytes { if let start = $0.baseAddress { explicit_bzero(start, $0.count) } }
    }
}
