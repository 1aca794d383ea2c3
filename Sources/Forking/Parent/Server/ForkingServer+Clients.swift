// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

extension ForkingServer {
    enum Service {
        case connections((inout Connection) throws -> Void)
        case datagrams((Datagram) throws -> Void)
        case programs((borrowing Connection) throws(ForkingError) -> Program)
        /// Returns the program for a listener's address.
        case lending((SocketAddress) throws(ForkingError) -> Program)

        var isLending: Bool { if case .lending = self { true } else { false } }

        var isOfPrograms: Bool { if case .programs = self { true } else { isLending } }
    }

    /// Takes one client, from those that are held or from the kernel's queue, and makes a child for it.
    func takeClient() throws(ForkingError) {
        do throws(ForkingError) {
            switch service {
            case .connections:
                guard let connection = try nextClient() else { return }
                try serve(connection)
            case .programs(let program):
                guard let connection = try nextClient() else { return }
                try serve(connection, by: program)
            case .datagrams:
                try replies?.prepare()
                guard var datagram = try nextDatagram() else { return }
                try serve(&datagram)
            case .lending(let program): try lend(to: program)
            }
            noteClient()
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

    /// The client that was held longest, or else the next one in a listener's queue, unless it is refused.
    private func nextClient() throws(ForkingError) -> Connection? {
        guard var connection = held.isEmpty ? try listeners.accept() : held.next() else { return nil }
        if connection.isAdmitted || isWelcome(&connection) { return connection }
        if connection.wasTold { refused.add(connection) }
        noteClient()
        return nil
    }

    private func serve(_ connection: consuming Connection) throws(ForkingError) {
        let peer = connection.peer
        let start = ConnectionStart(
            server: .passUnretained(self), descriptor: connection.descriptor.rawValue, peer: peer)
        do throws(ForkingError) {
            let pid = try children.fork(peer: peer, options: childOptions, from: stack, start) {
                let start = $0!.load(as: ConnectionStart.self)
                return start.server._withUnsafeGuaranteedRef { $0.serveInChild(start) }
            }
            if connection.account >= 0 { children.setTag(connection.account, of: pid) }
            tell(.forked(pid, peer: peer))
        } catch {
            try hold(connection, error)
        }
        // The parent's copy of the connection closes here. Only the child's is left.
    }

    /// Avoids writing to memory shared with the children for each client (see `ParentCell`).
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

    /// Releases the memory that only the start needed, so that forks do not copy it. What children need must be in the
    /// parent: so the hook runs again.
    private func trimAfterWarmup() {
        _ = forkcore_trim()  // fails in a process with threads: forks then cost more
        do { try hooks.beforeFork(self) } catch { tell(.beforeForkFailed(error)) }
    }

    // MARK: Shortages

    /// No child could be made for a client. Holds the client if a retry may soon succeed; otherwise closes its
    /// connection.
    private func hold(_ connection: consuming Connection, _ error: ForkingError) throws(ForkingError) {
        guard error.isShortage else {
            giveBack(connection.account)
            return tell(.forkFailed(connection.peer, error))
        }
        held.putBack(connection)
        throw error
    }

    /// The client stays in the queue, or is held. The server retries when a child has ended, or after a pause.
    private func noteShortage(_ error: ForkingError) {
        if error == .crowded {
            guard admission.noteCrowd(at: .now) else { return }
        } else {
            admission.noteShortage(at: .now)
        }
        isShort = true
        if admission.isNewShortage(at: .now) { tell(.shortage(error)) }
    }

    // MARK: Programs

    private func serve(
        _ connection: consuming Connection, by program: (borrowing Connection) throws(ForkingError) -> Program
    ) throws(ForkingError) {
        let peer = connection.peer
        let child: Program
        do throws(ForkingError) {
            try connection.setUp(timeout: configuration.ioTimeout, noDelay: configuration.noDelay)
            child = try program(connection)
        } catch {
            giveBack(connection.account)
            return tell(.forkFailed(peer, error))
        }
        do throws(ForkingError) {
            let pid = try children.spawn(
                child, on: connection.descriptor, peer: peer, options: childOptions)
            if connection.account >= 0 { children.setTag(connection.account, of: pid) }
            tell(.forked(pid, peer: peer))
        } catch {
            try hold(connection, error)
        }
    }

    /// Parent: a client or a datagram has arrived at a listener. Executes a program on that listener.
    private func lend(to program: (SocketAddress) throws(ForkingError) -> Program) throws(ForkingError) {
        let listener = try listeners.next()
        guard let address = listeners.all.first(where: { $0.descriptor == listener })?.address else { return }
        guard !forkcore_is_shut_down(listener) else { throw .system(call: "accept", .invalidArgument) }
        let child: Program
        do throws(ForkingError) {
            child = try program(address)
        } catch {
            listeners.leave(listener)
            lent.rest(listener, until: .now + LentListeners.pause)
            return tell(.forkFailed(address, error))
        }
        Self.letWait(on: listener)
        let pid = try children.spawn(
            child, on: FileDescriptor(rawValue: listener), peer: address, options: childOptions)
        listeners.leave(listener)
        lent.lend(listener, to: pid)
        tell(.forked(pid, peer: address))
    }

    /// Makes the listener blocking: a program written for inetd waits in accept(2) itself.
    private static func letWait(on listener: Int32) {
        let flags = fcntl(listener, F_GETFL)
        if flags >= 0, flags & O_NONBLOCK != 0 { _ = fcntl(listener, F_SETFL, flags & ~O_NONBLOCK) }
    }

    /// Polls the listeners again whose programs have ended.
    func takeBack(_ now: Instant) {
        for listener in lent.due(at: now) {
            do throws(ForkingError) {
                try listeners.watch(listener)
            } catch {
                lent.rest(listener, until: now + Admission.pause)  // epoll_ctl(2) has failed for lack of memory
            }
        }
    }

    // MARK: Datagrams

    private func nextDatagram() throws(ForkingError) -> Datagram? {
        if heldDatagram != nil { return heldDatagram.take() }
        heldAccount = -1
        guard var datagram = try receive() else { return nil }
        if isAdmitted(datagram), isWelcome(datagram) { return datagram }
        datagram.wipe()
        noteClient()
        return nil
    }

    /// The next datagram in a socket's queue, if there is one.
    private func receive() throws(ForkingError) -> Datagram? {
        let socket = try listeners.next()
        guard let shared = listeners.all.first(where: { $0.descriptor == socket }) else { return nil }
        return try shared.listener.receive(limit: configuration.maxDatagramBytes)
    }

    private func isWelcome(_ datagram: borrowing Datagram) -> Bool {
        do {
            if try hooks.verifyDatagram(self, datagram) { return true }
            tell(.rejected(datagram.peer))
        } catch {
            tell(.verifyFailed(datagram.peer, error))
        }
        giveBack(heldAccount)
        return false
    }

    /// Takes the datagram inout, so that this process has no other copy of it: the copy would not be wiped.
    private func serve(_ datagram: inout Datagram) throws(ForkingError) {
        do throws(ForkingError) {
            let pid = try fork(for: datagram)
            replies!.begin(pid, for: datagram)
            if heldAccount >= 0 { children.setTag(heldAccount, of: pid) }
            tell(.forked(pid, peer: datagram.peer))
            datagram.wipe()
        } catch {
            guard error.isShortage else {
                giveBack(heldAccount)
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
