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
            case .connections: try takeConnection()
            case .datagrams: try takeDatagram()
            case .programs(let program): try takeConnection(for: program)
            case .lending(let program):
                try lend(to: program)
                noteClient()
            }
        } catch {
            if error.errno == .invalidArgument,
                try listeners.all.listenAgain({ tell(.listeningAgain($0)) })
            {
                return
            }
            guard error.isShortage else { throw error }
            noteShortage(error)
        }
    }

    private func takeConnection() throws(ForkingError) {
        guard let connection = try nextClient() else { return }
        try serve(connection)
        noteClient()
    }

    private func takeConnection(
        for program: (borrowing Connection) throws(ForkingError) -> Program
    ) throws(ForkingError) {
        guard let connection = try nextClient() else { return }
        try serve(connection, by: program)
        noteClient()
    }

    private func takeDatagram() throws(ForkingError) {
        try replies?.prepare()
        guard var datagram = try nextDatagram() else { return }
        try serve(&datagram)
        noteClient()
    }

    /// The client stays in the queue, or is held. An exit may free what is short; else it is tried again soon.
    private func noteShortage(_ error: ForkingError) {
        if error == .crowded {
            guard admission.noteCrowd(at: .now) else { return }
        } else {
            admission.noteShortage(at: .now)
        }
        isShort = true
        if admission.isNewShortage(at: .now) { tell(.shortage(error)) }
    }

    private func noteFork(_ pid: ProcessID, for peer: SocketAddress) { tell(.forked(pid, peer: peer)) }

    /// The client that is held longest, else the next of those that wait at the listeners, if it is welcome.
    private func nextClient() throws(ForkingError) -> Connection? {
        guard held.isEmpty else { return nextHeld() }
        guard let connection = try accept() else { return nil }
        if isWelcome(connection) { return connection }
        noteClient()
        return nil
    }

    private func nextHeld() -> Connection? {
        if let connection = held.next(isWelcome) { return connection }
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
        guard socket >= 0 else { return nil }
        guard let (descriptor, peer) = try Listener.take(from: socket) else {
            if forkcore_is_shut_down(socket) { throw .system(call: "accept", .invalidArgument) }
            return nil
        }
        var connection = Connection(descriptor, peer: peer)
        connection.mayHoldRights = listeners.mayHoldRights
        return connection
    }

    /// The next datagram that waits, if there is one.
    private func receive() throws(ForkingError) -> Datagram? {
        let socket = try listeners.next()
        guard let shared = listeners.all.first(where: { $0.descriptor == socket }) else { return nil }
        return try shared.listener.receive(limit: configuration.maxDatagramBytes)
    }

    /// Nothing is changed for each client that children have a copy of (see `ParentCell`).
    private func noteClient() {
        if !hasTakenClient { hasTakenClient = true }
        idleSince.value = .now
        if isShort { isShort = false }
        admission.noteClient()
        if clientsUntilTrim > 0 {
            clientsUntilTrim -= 1
            if clientsUntilTrim == 0 { trimAfterWarmup() }
        }
    }

    /// What only the start needed need not be copied by each fork. What children need is to be there in the parent.
    private func trimAfterWarmup() {
        _ = forkcore_trim()  // in a process with threads it is not done, which makes forks dearer, but not wrong
        do { try hooks.beforeFork(self) } catch { tell(.beforeForkFailed(error)) }
    }

    private func serve(_ connection: consuming Connection) throws(ForkingError) {
        let peer = connection.peer
        let start = ConnectionStart(
            server: .passUnretained(self), descriptor: connection.descriptor.rawValue, peer: peer)
        do throws(ForkingError) {
            let pid = try children.fork(peer: peer, options: childOptions, from: stack, start) {
                let start = $0!.load(as: ConnectionStart.self)
                return start.server._withUnsafeGuaranteedRef { $0.serveInChild(start.descriptor, of: start.peer) }
            }
            noteFork(pid, for: peer)
        } catch {
            try hold(connection, error)
        }
        // Here the parent's copy of the connection closes. The child's is the only one left.
    }

    /// No child could be made for a client. It is held, if there may be one in a moment; else it is sent away.
    private func hold(_ connection: consuming Connection, _ error: ForkingError) throws(ForkingError) {
        guard error.isShortage else { return tell(.forkFailed(connection.peer, error)) }
        held.putBack(connection)
        throw error
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
            return tell(.forkFailed(peer, error))
        }
        do throws(ForkingError) {
            let pid = try children.spawn(
                child, on: connection.descriptor, peer: peer, options: childOptions)
            noteFork(pid, for: peer)
        } catch {
            try hold(connection, error)
        }
    }

    private func isWelcome(_ connection: borrowing Connection) -> Bool {
        do {
            if try hooks.verifyConnection(self, connection) { return true }
            tell(.rejected(connection.peer))
        } catch {
            tell(.verifyFailed(connection.peer, error))
        }
        return false
    }

    private func isWelcome(_ datagram: borrowing Datagram) -> Bool {
        do {
            if try hooks.verifyDatagram(self, datagram) { return true }
            tell(.rejected(datagram.peer))
        } catch {
            tell(.verifyFailed(datagram.peer, error))
        }
        return false
    }

    /// There is no other copy of the datagram in this process, or what is wiped at the end would be one.
    private func serve(_ datagram: inout Datagram) throws(ForkingError) {
        do throws(ForkingError) {
            let pid = try fork(for: datagram)
            replies!.begin(pid, for: datagram)
            noteFork(pid, for: datagram.peer)
            datagram.wipe()
        } catch {
            guard error.isShortage else {
                tell(.forkFailed(datagram.peer, error))
                return datagram.wipe()
            }
            heldDatagram = datagram
            throw error
        }
    }

    private func fork(for datagram: borrowing Datagram) throws(ForkingError) -> ProcessID {
        try datagram.bytes.withUnsafeBufferPointer { (bytes) throws(ForkingError) in
            let start = DatagramStart(
                server: .passUnretained(self), bytes: bytes, isTruncated: datagram.isTruncated, peer: datagram.peer,
                destination: datagram.destination, channel: replies!.childsEnd)
            return try children.fork(peer: datagram.peer, options: childOptions, from: stack, start) {
                let start = $0!.load(as: DatagramStart.self)
                return start.server._withUnsafeGuaranteedRef { $0.serveInChild(start) }
            }
        }
    }
}
