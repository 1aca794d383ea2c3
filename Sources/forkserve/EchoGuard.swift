// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc

/// Keeps an echo of datagrams from answering other servers, which would answer that again, without end: anybody can
/// send a datagram in another's name. Parent.
///
/// Not answered are ports below 1024, where such services are (echo, daytime, chargen, and more), and this server's own
/// port, here or elsewhere. Of two servers on other ports nobody can tell that they are; so no one sender is answered
/// more than two hundred times in ten seconds, and a datagram that is dropped ends their conversation.
struct EchoGuard {
    private struct Sender {
        var address = 0
        var window = 0
        var count = 0
    }

    private let ports: [UInt16]
    /// Some senders share one. It is this process's for ever.
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
