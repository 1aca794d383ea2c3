// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// Clients that were accepted but have no child yet, because of a shortage, or because the server is stopping and they
/// connected before. Parent only: `ParentOnly` closes a child's copies of the descriptors.
struct HeldClients: ~Copyable {
    private struct Client {
        let descriptor: FileDescriptor
        let peer: SocketAddress
        var isAdmitted = false
        var account: Int32 = -1
    }

    /// From index `first` on, oldest first.
    private var clients: [Client] = []
    private var first = 0
    private let owner = forkcore_process()

    var isEmpty: Bool { clients.isEmpty }
    var count: Int { clients.count - first }

    /// Accepts all waiting clients, because a client that connected before the server stopped is served while it
    /// drains. Clients for which there is no descriptor stay in the kernel's queue and are reset with it. Sockets that
    /// another program continues to use are skipped.
    ///
    /// - Parameter spare: the number of descriptors that the server still needs.
    mutating func takeWaiting(at listeners: [SharedListener], leaving spare: Int) {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        // The kernel returns the lowest free number.
        let most = Int(clamping: limit.rlim_cur) - spare
        for shared in listeners where shared.listener.isOurs {
            // Bounded, because clients may keep coming.
            for _ in 0..<65_536 {
                guard shared.listener.isAwaited else { break }
                do throws(ForkingError) {
                    guard let (descriptor, peer) = try Listener.take(from: shared.descriptor) else { continue }
                    ParentOnly.add(descriptor.rawValue)
                    clients.append(Client(descriptor: descriptor, peer: peer))
                    if descriptor.rawValue >= most { return }
                } catch {
                    return
                }
            }
        }
    }

    /// Holds an admitted client, before all others.
    mutating func putBack(_ connection: consuming Connection) {
        let (peer, account) = (connection.peer, connection.account)
        let client = Client(descriptor: connection.release(), peer: peer, isAdmitted: true, account: account)
        ParentOnly.add(client.descriptor.rawValue)
        if first > 0 {
            first -= 1
            clients[first] = client
        } else {
            clients.insert(client, at: 0)
        }
    }

    /// Removes the client that has waited longest. Returns nil if there is none.
    mutating func next() -> Connection? {
        guard !isEmpty else { return nil }
        let client = removeFirst()
        var connection = Connection(client.descriptor, peer: client.peer)
        connection.mayHoldRights = client.peer.isUnix
        (connection.isAdmitted, connection.account) = (client.isAdmitted, client.account)
        return connection
    }

    /// Hands over one client after another, until `take` returns false; that client stays.
    mutating func handOver(_ take: (FileDescriptor, SocketAddress) -> Bool) {
        while !isEmpty, take(clients[first].descriptor, clients[first].peer) {
            Self.close(removeFirst())
        }
    }

    private mutating func removeFirst() -> Client {
        let client = clients[first]
        first += 1
        if first == clients.count { (clients, first) = ([], 0) }
        ParentOnly.remove(client.descriptor.rawValue)
        return client
    }

    /// Closes all connections.
    mutating func closeAll() {
        while !isEmpty { Self.close(removeFirst()) }
    }

    deinit {
        guard owner == forkcore_process() else { return }
        for client in clients[first...] {
            ParentOnly.remove(client.descriptor.rawValue)
            Self.close(client)
        }
    }

    /// Descriptors attached to a Unix socket are closed by another process: see `forkcore_close_aside`.
    private static func close(_ client: Client) {
        let number = client.descriptor.rawValue
        if client.peer.isUnix { forkcore_close_aside(number) } else { forkcore_close(number) }
    }
}
