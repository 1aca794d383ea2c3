// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization
public import SystemPackage

/// Sockets that a service manager, or the predecessor in an upgrade (docs/SIGNALS.md, SIGUSR2), passed to this process:
/// descriptors 3 and up, as described by LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES. sd_listen_fds(3).
///
/// A `Listener` uses the one that is bound to its address. Ask for others by name, because their order is not
/// significant. The first use removes the variables, so that no program started from here mistakes them for its own.
public enum InheritedSockets {
    /// Returns the descriptors that have not been asked for yet, in order, each for `Listener(adopting:)`. Empty if
    /// none was passed.
    ///
    /// Any process, before the first thread.
    ///
    /// - Throws: `ForkingError.Code.invalid` if the variables are malformed.
    public static func take() throws(ForkingError) -> [FileDescriptor] {
        try claim { _ in true }.map { FileDescriptor(rawValue: $0.descriptor) }
    }

    /// Calls `body` with a listener on each socket that a service manager passed, or on each with this name:
    /// FileDescriptorName= in systemd.socket(5). It is an error if there is none, because the server would wait for
    /// clients that can never come.
    ///
    /// Any process, before the first thread.
    ///
    /// - Throws: `ForkingError.Code.invalid` if there is none, or if the variables are malformed; the errors of
    ///   `Listener(adopting:)` and of `body`.
    public static func forEachListener(
        named name: String? = nil, _ body: (consuming Listener) throws(ForkingError) -> Void
    ) throws(ForkingError) {
        let found = try claim { socket in
            guard case .manager(let given) = socket.origin else { return false }
            return name == nil || name == given
        }
        guard !found.isEmpty else {
            guard let name else {
                throw .invalid("no socket was handed over: LISTEN_FDS and LISTEN_PID are not set for this process")
            }
            let others = unclaimed.withLock { $0.compactMap(\.name) }
            throw .invalid(
                "no socket of the name '\(name)' was handed over; "
                    + (others.isEmpty ? "none was" : "there are: \(others.joined(separator: ", "))"))
        }
        for socket in found { try body(listener(on: socket)) }
    }

    /// Returns a listener on the passed socket that is bound to `address`; nil if there is none. Port 0 matches any
    /// port of the predecessor's.
    static func listener(
        on address: SocketAddress, datagram: Bool, options: Listener.Options
    ) throws(ForkingError) -> Listener? {
        guard let found = try claimFirst(where: { $0.serves(address, datagram: datagram) }) else { return nil }
        if Predecessor.isThere, found.origin == .made, let path = address.file, isMissing(path) {
            // The file was removed, so clients can no longer reach this socket. The predecessor serves those in its
            // queue.
            forkcore_close(found.descriptor)
            return nil
        }
        let listener = try listener(on: found)
        if !listener.isAdopted { try listener.watchPeers(as: options) }
        return listener
    }

    /// Returns a listener on the socket that was descriptor `descriptor` at the start of the first program in a chain
    /// of upgrades; nil if none was passed, so that the socket has this number here.
    static func listener(adopting descriptor: FileDescriptor) throws(ForkingError) -> Listener? {
        let number = descriptor.rawValue
        // Without a predecessor, it is one of the service manager's, or no variable describes it.
        let isWanted: (InheritedSocket) -> Bool =
            Predecessor.isThere ? { $0.origin == .descriptor(number) } : { $0.descriptor == number }
        guard var found = try claimFirst(where: isWanted) else { return nil }
        found.origin = .descriptor(number)
        return try listener(on: found)
    }

    /// Throws if a service manager passed a socket that nothing has asked for: its clients would wait forever. A socket
    /// from the predecessor is no error: a server closes it when it starts, so that its clients are refused.
    ///
    /// Any process, before the first thread. A server that uses any passed socket calls this when it starts to serve.
    ///
    /// - Throws: `ForkingError.Code.invalid`, which names them.
    public static func requireAllTaken() throws(ForkingError) {
        try look()
        guard !Predecessor.isThere else { return }
        try requireNoneLeft()
    }

    // MARK: The sockets

    private static let first: Int32 = 3
    private static let unclaimed = Mutex<[InheritedSocket]>([])

    /// For a server that starts: sockets that nothing has asked for are an error or, if they come from a predecessor,
    /// are closed, so that their clients are refused.
    static func closeUnclaimed() throws(ForkingError) {
        guard Predecessor.isThere else { return try requireNoneLeft() }
        unclaimed.withLock { sockets in
            for socket in sockets { forkcore_close(socket.descriptor) }
            sockets = []
        }
    }

    private static func requireNoneLeft() throws(ForkingError) {
        let left = unclaimed.withLock { $0 }
        guard let some = left.first else { return }
        let names = left.map { socket in
            let address = (try? SocketAddress(boundTo: socket.descriptor)).map { "\($0)" } ?? "no socket"
            return "\(address), named '\(SocketAddress.printable(socket.name ?? ""))'"
        }
        throw .invalid(
            "\(left.count == 1 ? "a socket was" : "sockets were") handed over, and no server uses it: "
                + names.joined(separator: "; ")
                + ". Give the address systemd to serve all, or for each systemd:NAME, such as systemd:\(some.name ?? "x.socket"), or by address"
        )
    }

    private static func claimFirst(
        where isWanted: (InheritedSocket) -> Bool
    ) throws(ForkingError) -> InheritedSocket? {
        try look()
        return unclaimed.withLock { sockets in sockets.firstIndex(where: isWanted).map { sockets.remove(at: $0) } }
    }

    private static func isMissing(_ path: SocketPath) -> Bool {
        var found = stat()
        return failure(of: lstat(path.c, &found)) == ENOENT
    }

    private static func claim(_ isWanted: (InheritedSocket) -> Bool) throws(ForkingError) -> [InheritedSocket] {
        try look()
        return unclaimed.withLock { sockets in
            let wanted = sockets.filter(isWanted)
            sockets.removeAll(where: isWanted)
            return wanted
        }
    }

    private static func listener(on socket: InheritedSocket) throws(ForkingError) -> Listener {
        guard Predecessor.isThere else {
            return try Listener(adopting: FileDescriptor(rawValue: socket.descriptor), origin: socket.origin)
        }
        return try Listener(succeedingOn: socket.descriptor, origin: socket.origin)
    }

    /// Takes over the sockets that the variables describe, and removes the variables.
    private static func look() throws(ForkingError) {
        guard let pid = variable("LISTEN_PID"), let count = variable("LISTEN_FDS"), pid == String(getpid()) else {
            return  // they are for another process, which did not remove them
        }
        let names = variable("LISTEN_FDNAMES")?.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsetenv(name) }
        guard let number = Int32(count), number >= 0, number < Int32.max - first else {
            throw .invalid("LISTEN_FDS is '\(count)', and should be the number of sockets handed over")
        }
        guard names == nil || number == 0 || names?.count == Int(number) else {
            throw .invalid("LISTEN_FDNAMES has \(names?.count ?? 0) names, and LISTEN_FDS is \(count)")
        }
        for descriptor in first..<first + number where !Inheritance.adopt(descriptor) {
            throw .invalid("LISTEN_FDS is \(count), but descriptor \(descriptor) is not open")
        }
        let found = (0..<Int(number)).map { index in
            // The name that sd_listen_fds_with_names(3) gives to sockets without a name.
            let name = names?[index] ?? "unknown"
            return InheritedSocket(
                descriptor: first + Int32(index), origin: Predecessor.origin(index, named: name) ?? .manager(name: name)
            )
        }
        unclaimed.withLock { $0 += found }
    }

    private static func variable(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }
    }
}

/// A passed socket that nothing has asked for yet.
private struct InheritedSocket {
    let descriptor: Int32
    var origin: Listener.Origin

    var name: String? {
        if case .manager(let name) = origin { name } else { nil }
    }

    /// Whether a server on `address` uses this socket.
    func serves(_ address: SocketAddress, datagram: Bool) -> Bool {
        guard socketType(of: descriptor) == Int32((datagram ? SOCK_DGRAM : SOCK_STREAM).rawValue),
            let bound = try? SocketAddress(boundTo: descriptor)
        else { return false }
        // Port 0 asks for a new port, so no service manager's socket matches.
        if address.port == 0, !Predecessor.isThere { return false }
        return bound.isBound(asAsked: address)
    }
}
