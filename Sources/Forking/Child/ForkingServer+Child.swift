// SPDX-License-Identifier: Apache-2.0
//
// A child of a ForkingServer: has one thread and one client. It runs the user's handler and ends by _exit, without
// releasing anything of its parent's.

import CForkCore
import SystemPackage

extension ForkingServer {
    /// What a child needs to start: it has no access to its parent's stack.
    struct ConnectionStart: BitwiseCopyable {
        let server: Unmanaged<ForkingServer>
        let descriptor: Int32
        let peer: SocketAddress
    }

    struct DatagramStart: BitwiseCopyable {
        let server: Unmanaged<ForkingServer>
        let bytes: UnsafeBufferPointer<UInt8>
        let isTruncated: Bool
        let peer: SocketAddress
        let destination: forkcore_destination
        let channel: Int32
    }

    /// Serves the client of a connection. Returns the exit status.
    func serveInChild(_ start: ConnectionStart) -> Int32 {
        guard case .connections(let handler) = service else { preconditionFailure("it is no server of connections") }
        var connection = Connection(FileDescriptor(rawValue: start.descriptor), peer: start.peer)
        let status = run(for: start.peer) {
            try connection.setUp(timeout: configuration.ioTimeout, noDelay: configuration.noDelay)
            try handler(&connection)
        }
        connection.finish()
        _ = connection.release()
        return status
    }

    /// Serves the client that sent a datagram. Returns the exit status.
    func serveInChild(_ start: DatagramStart) -> Int32 {
        guard case .datagrams(let handler) = service else { preconditionFailure("it is no server of datagrams") }
        let datagram = Datagram(
            Array(start.bytes), isTruncated: start.isTruncated, peer: start.peer, to: start.destination,
            way: .parent(start.channel))
        return run(for: start.peer) { try handler(datagram) }
    }

    /// Runs the handler and reports its error. Returns the exit status.
    private func run(for peer: SocketAddress, _ handler: () throws -> Void) -> Int32 {
        do {
            try handler()
            return 0
        } catch {
            try? hooks.onError(error, peer)
            return 1
        }
    }
}
