// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// A request that arrived as one datagram, over UDP or a Unix datagram socket.
///
/// `reply` is for the process that serves it: a child, or whoever received it from a `Listener`. `wipe` is the parent's.
public struct Datagram: Sendable {
    /// The datagram, truncated to the server's `maxDatagramBytes`.
    public private(set) var bytes: [UInt8]
    /// Whether the datagram was longer than the server's `maxDatagramBytes`, and was truncated.
    public let isTruncated: Bool
    /// The sender. A Unix client must have bound an address of its own to be replied to.
    public let peer: SocketAddress

    /// The address of the server to which it was sent.
    let destination: forkcore_destination
    /// How a reply is sent.
    let way: Way

    enum Way {
        /// On the server's own socket.
        case socket(Int32)
        /// By the parent of the child that serves it. The parent has the other end of this channel.
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

    /// Replies to the sender, from the address to which it sent. In a child of a `ForkingServer`, the parent sends the
    /// reply and returns the result; elsewhere it is sent directly. sendmsg(2).
    ///
    /// Does not wait for the sender to read. If the sender's buffer is full, this throws `.system` with
    /// `Errno.resourceTemporarilyUnavailable`, and the reply is lost, as any datagram may be.
    ///
    /// - Throws: `ForkingError.Code.invalid` if the sender has no address, or `.system`; with `Errno.brokenPipe` if the
    ///   server no longer serves.
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

    /// Parent: erases the bytes, so that no other client's child finds them in its memory.
    mutating func wipe() {
        bytes.withUnsafeMutableBytes { if let start = $0.baseAddress { explicit_bzero(start, $0.count) } }
    }
}
