// SPDX-License-Identifier: Apache-2.0

import SystemPackage

extension ForkingServer {
    enum Service {
        case connections((inout Connection) throws -> Void)
        case datagrams((Datagram) throws -> Void)
    }

    /// Takes one client from the kernel's queue and forks a child for it.
    func takeClient() throws(ForkingError) {
        do throws(ForkingError) {
            switch service {
            case .connections(let handler):
                guard let connection = try listener!.accept() else { return }
                noteClient()
                serve(connection, handler)
            case .datagrams(let handler):
                guard let datagram = try listener!.receive(limit: configuration.datagramLimit) else { return }
                noteClient()
                serve(datagram, handler)
            }
        } catch .system(let call, let code) where Self.shortages.contains(code) {
            // The client stays in the queue. An exit may free what is short; else it is tried again soon.
            admission.noteShortage(at: .now)
            if !isShort { hooks.observe(.shortage(.system(call: call, code))) }
            isShort = true
        }
    }

    private static let shortages: [Errno] = [.tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory, .noBufferSpace]

    private func noteClient() {
        clientsTaken += 1
        idleSince = .now
        isShort = false
    }

    private func serve(_ connection: consuming Connection, _ handler: (inout Connection) throws -> Void) {
        let peer = connection.peer
        do {
            guard try hooks.verifyConnection(connection) else { return hooks.observe(.refused(peer)) }
        } catch {
            return hooks.observe(.verifyFailed(peer, error))
        }
        fork(for: peer) {
            let status = run(for: peer) {
                if let timeout = configuration.ioTimeout { try connection.setTimeout(timeout) }
                if configuration.noDelay, !peer.isUnix { try connection.setNoDelay(true) }
                try handler(&connection)
            }
            connection.finish()
            return status
        }
        // Here the parent's copy of the connection closes. The child's is the only one left.
    }

    private func serve(_ datagram: Datagram, _ handler: (Datagram) throws -> Void) {
        do {
            guard try hooks.verifyDatagram(datagram) else { return hooks.observe(.refused(datagram.peer)) }
        } catch {
            return hooks.observe(.verifyFailed(datagram.peer, error))
        }
        fork(for: datagram.peer, keeping: datagram.socket) { run(for: datagram.peer) { try handler(datagram) } }
    }

    /// Child: what the handler does, its errors included, as an exit status.
    private func run(for peer: SocketAddress, _ handler: () throws -> Void) -> Int32 {
        do {
            try handler()
            return 0
        } catch {
            try? hooks.handleError(error, peer)
            return 1
        }
    }

    private func fork(for peer: SocketAddress, keeping socket: FileDescriptor? = nil, _ body: () -> Int32) {
        var options = configuration.childOptions
        options.keeps = socket?.rawValue
        do throws(ForkingError) {
            let pid = try children.fork(peer: peer, options: options, body)
            hooks.observe(.forked(pid, peer: peer))
        } catch {
            hooks.observe(.forkFailed(peer, error))
        }
    }
}
