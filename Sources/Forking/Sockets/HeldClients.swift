// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// Clients that were accepted, but have no child yet: something was short, or the server stops, and they came before it
/// did. Parent; children do not have them.
struct HeldClients: ~Copyable {
    private struct Client {
        let descriptor: FileDescriptor
        let peer: SocketAddress
        let isWelcome: Bool
    }

    /// From `first` on, in the order of their coming.
    private var clients: [Client] = []
    private var first = 0
    private let owner = forkcore_process()

    var isEmpty: Bool { clients.isEmpty }
    var count: Int { clients.count - first }

    /// Accepts all that wait: who has connected before a server stopped is served while it drains. What there is no
    /// descriptor for stays in the kernel's queue, and is reset with it. A socket that somebody goes on with keeps its
    /// queue.
    ///
    /// - Parameter spare: how many descriptors the server still needs.
    mutating func takeWaiting(at listeners: [SharedListener], leaving spare: Int) {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        // The kernel gives the lowest number that is free.
        let most = Int(clamping: limit.rlim_cur) - spare
        for shared in listeners where shared.listener.isOurs {
            // However many come meanwhile, it ends.
            for _ in 0..<65_536 {
                guard shared.listener.isAwaited else { break }
                do throws(ForkingError) {
                    guard let (descriptor, peer) = try Listener.take(from: shared.descriptor) else { continue }
                    ParentOnly.add(descriptor.rawValue)
                    clients.append(Client(descriptor: descriptor, peer: peer, isWelcome: false))
                    if descriptor.rawValue >= most { return }
                } catch {
                    return
                }
            }
        }
    }

    /// One that has been verified, and goes before all others.
    mutating func putBack(_ connection: consuming Connection) {
        let peer = connection.peer
        let client = Client(descriptor: connection.release(), peer: peer, isWelcome: true)
        ParentOnly.add(client.descriptor.rawValue)
        if first > 0 {
            first -= 1
            clients[first] = client
        } else {
            clients.insert(client, at: 0)
        }
    }

    /// The one that has waited longest, unless `isWelcome` says no.
    mutating func next(_ isWelcome: (borrowing Connection) -> Bool) -> Connection? {
        guard !isEmpty else { return nil }
        let client = removeFirst()
        var connection = Connection(client.descriptor, peer: client.peer)
        connection.mayHoldRights = client.peer.isUnix
        guard client.isWelcome || isWelcome(connection) else { return nil }
        return connection
    }

    /// Hands over one after the other, until `take` says no: then that one stays.
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

    /// Sends them away.
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

    /// What a client has attached to a Unix socket is not closed here.
    private static func close(_ client: Client) {
        let number = client.descriptor.rawValue
        if client.peer.isUnix { forkcore_close_aside(number) } else { forkcore_close(number) }
    }
}
