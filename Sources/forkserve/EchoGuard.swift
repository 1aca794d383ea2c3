// SPDX-License-Identifier: Apache-2.0
//
// Parent: decides which datagrams are answered. Acts on nothing.

import Forking
import Glibc

/// Keeps an echo of datagrams from answering other servers, which would answer it again, without end: any host can
/// forge the sender of a datagram. Parent.
///
/// It does not answer ports below 1024, where such services are (echo, daytime, chargen, and more), nor this server's
/// own port, on any host. A server on another port cannot be recognised, so each sender gets at most two hundred
/// answers in ten seconds: one dropped datagram ends an exchange between two servers.
struct EchoGuard {
    private struct Sender {
        var address = 0
        var window = 0
        var count = 0
    }

    private let ports: [UInt16]
    /// A hash table in which senders can share an entry. It is never freed.
    private let senders = UnsafeMutablePointer<Sender>.allocate(capacity: Self.places)
    private static let places = 256
    private static let seconds = 10
    private static let mostPerWindow = 200

    init(_ addresses: [SocketAddress]) {
        ports = addresses.compactMap(\.port)
        senders.initialize(repeating: Sender(), count: Self.places)
    }

    func admits(_ datagram: Datagram) -> Bool {
        if let port = datagram.peer.port, port < 1024 || ports.contains(port) { return false }
        var now = timespec()
        clock_gettime(CLOCK_MONOTONIC, &now)
        let address = datagram.peer.hashValue
        let sender = senders + Int(UInt(bitPattern: address) % UInt(Self.places))
        let window = now.tv_sec / Self.seconds
        if sender.pointee.address != address || sender.pointee.window != window {
            sender.pointee = Sender(address: address, window: window)
        }
        sender.pointee.count += 1
        return sender.pointee.count <= Self.mostPerWindow
    }
}
