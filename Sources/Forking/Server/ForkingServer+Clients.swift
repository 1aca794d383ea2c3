// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

extension ForkingServer {
    enum Service {
        case connections((inout Connection) throws -> Void)
        case datagrams((Datagram) throws -> Void)
        case programs((borrowing Connection) throws(ForkingError) -> Program)
        /// For each listener.
        case lending((SocketAddress) throws(ForkingError) -> Program)

        var isLending: Bool { if case .lending = self { true } else { false } }

        var isOfPrograms: Bool { if case .programs = self { true } else { isLending } }
    }

    /// Takes one client, of those that are held or from the kernel's queue, and has a child made for it.
    func takeClient() throws(ForkingError) {
        do throws(ForkingError) {
            switch service {
            case .connections(let handler):
                guard let connection = try nextClient() else { return }
                try serve(connection, handler)
            case .datagrams(let handler):
                try replies?.prepare()
                guard var datagram = try nextDatagram() else { return }
                try serve(&datagram, handler)
            case .programs(let program):
                guard let connection = try nextClient() else { return }
                try serve(connection, by: program)
            case .lending(let program):
                try lend(to: program)
            }
            noteClient()
        } catch {
            guard error.isShortage else { throw error }
            // The client stays in the queue, or is held. An exit may free what is short; else it is tried again soon.
            if error == .crowded {
                guard admission.noteCrowd(at: .now) else { return }
            } else {
                admission.noteShortage(at: .now)
            }
            isShort = true
            if admission.isNewShortage(at: .now) { hooks.observe(.shortage(error)) }
        }
    }

    /// The client that is held longest, else the next of those that wait at the listeners, if it is welcome.
    private func nextClient() throws(ForkingError) -> Connection? {
        if !held.isEmpty {
            if let connection = held.next(isWelcome) { return connection }
        } else {
            guard let connection = try accept() else { return nil }
            if isWelcome(connection) { return connection }
        }
        noteClient()
        return nil
    }

    private func nextDatagram() throws(ForkingError) -> Datagram? {
        if heldDatagram != nil { return heldDatagram.take() }
        guard var datagram = try receive() else { return nil }
        if isWelcome(datagram) { return datagram }
        datagram.wipe()
        noteClient()
        return nil
    }

    /// The next client that waits at a listener, if there is one.
    private func accept() throws(ForkingError) -> Connection? {
        let socket = try listeners.next()
        guard socket >= 0, let (descriptor, peer) = try Listener.take(from: socket) else { return nil }
        var connection = Connection(descriptor, peer: peer)
        connection.mayHoldRights = listeners.mayHoldRights
        return connection
    }

    /// The next datagram that waits, if there is one.
    private func receive() throws(ForkingError) -> Datagram? {
        let socket = try listeners.next()
        guard let shared = listeners.all.first(where: { $0.descriptor == socket }) else { return nil }
        return try shared.listener.receive(limit: configuration.datagramLimit)
    }

    /// Nothing is changed for each client that children have a copy of (see `ParentCell`).
    private func noteClient() {
        if !hasTakenClient { hasTakenClient = true }
        idleSince.value = .now
        if isShort { isShort = false }
        admission.noteClient()
        if clientsUntilSettled > 0 {
            clientsUntilSettled -= 1
            if clientsUntilSettled == 0 { settle() }
        }
    }

    /// What only the start needed need not be copied by each fork. What children need is to be there in the parent.
    private func settle() {
        _ = forkcore_trim()  // in a process with threads it is not done, which makes forks dearer, but not wrong
        hooks.prewarm()
    }

    private func serve(
        _ connection: consuming Connection, _ handler: (inout Connection) throws -> Void
    ) throws(ForkingError) {
        let peer = connection.peer
        if let pid = passOn(connection) {
            hooks.observe(.forked(pid, peer: peer))
            return
        }
        do throws(ForkingError) {
            let pid = try children.fork(peer: peer, options: childOptions) {
                attend(&connection, handler)
            }
            hooks.observe(.forked(pid, peer: peer))
        } catch {
            try hold(connection, error)
        }
        // Here the parent's copy of the connection closes. The child's is the only one left.
    }

    /// No child could be made for a client. It is held, if there may be one in a moment; else it is sent away.
    private func hold(_ connection: consuming Connection, _ error: ForkingError) throws(ForkingError) {
        guard error.isShortage else { return hooks.observe(.forkFailed(connection.peer, error)) }
        held.putBack(connection)
        throw error
    }

    /// Child: serves its client.
    func attend(_ connection: inout Connection, _ handler: (inout Connection) throws -> Void) -> Int32 {
        let status = run(for: connection.peer) {
            try connection.setUp(timeout: configuration.ioTimeout, noDelay: configuration.noDelay)
            try handler(&connection)
        }
        connection.finish()
        return status
    }

    private func serve(
        _ connection: consuming Connection, by program: (borrowing Connection) throws(ForkingError) -> Program
    ) throws(ForkingError) {
        let peer = connection.peer
        let child: Program
        do throws(ForkingError) {
            try connection.setUp(timeout: configuration.ioTimeout, noDelay: configuration.noDelay)
            child = try program(connection)
        } catch {
            return hooks.observe(.forkFailed(peer, error))
        }
        do throws(ForkingError) {
            let pid = try children.spawn(
                child, on: connection.descriptor, peer: peer, options: childOptions)
            hooks.observe(.forked(pid, peer: peer))
        } catch {
            try hold(connection, error)
        }
    }

    private func isWelcome(_ connection: borrowing Connection) -> Bool {
        do {
            if try hooks.verifyConnection(connection) { return true }
            hooks.observe(.refused(connection.peer))
        } catch {
            hooks.observe(.verifyFailed(connection.peer, error))
        }
        return false
    }

    private func isWelcome(_ datagram: borrowing Datagram) -> Bool {
        do {
            if try hooks.verifyDatagram(datagram) { return true }
            hooks.observe(.refused(datagram.peer))
        } catch {
            hooks.observe(.verifyFailed(datagram.peer, error))
        }
        return false
    }

    /// There is no other copy of the datagram in this process, or what is wiped at the end would be one.
    private func serve(_ datagram: inout Datagram, _ handler: (Datagram) throws -> Void) throws(ForkingError) {
        do throws(ForkingError) {
            let channel = replies!.childsEnd
            let pid = try children.fork(peer: datagram.peer, options: childOptions) {
                var request = datagram
                request.way = .parent(channel)
                return run(for: request.peer) { try handler(request) }
            }
            replies!.begin(pid, for: datagram)
            hooks.observe(.forked(pid, peer: datagram.peer))
            datagram.wipe()
        } catch {
            guard error.isShortage else {
                hooks.observe(.forkFailed(datagram.peer, error))
                return datagram.wipe()
            }
            heldDatagram = datagram
            throw error
        }
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
}
