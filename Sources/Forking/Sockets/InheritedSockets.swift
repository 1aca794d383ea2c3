// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization
import SystemPackage

/// Sockets that a service manager opened and handed to this process, or the program whose place it takes (see
/// `PreforkServer`, SIGUSR2): descriptors 3 and up, as LISTEN_PID and LISTEN_FDS say. See sd_listen_fds(3).
public enum InheritedSockets {
    /// The descriptors, in the order they were configured, each for `Listener(adopting:)`; none if none was handed over.
    ///
    /// Any process; call it once, before the first thread. The variables are removed, so that no program started from
    /// here takes them for its own.
    ///
    /// - Throws: `ForkingError.invalid` if the variables make no sense.
    public static func take() throws(ForkingError) -> [FileDescriptor] {
        guard let pid = variable("LISTEN_PID"), let count = variable("LISTEN_FDS"), pid == String(getpid()) else {
            return []  // meant for another process, which did not remove them
        }
        for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] { unsetenv(name) }
        guard let number = Int32(count), number >= 0, number < Int32.max - first else {
            throw .invalid("LISTEN_FDS is '\(count)', and should be the number of sockets handed over")
        }
        for descriptor in first..<first + number where fcntl(descriptor, F_SETFD, FD_CLOEXEC) < 0 {
            throw .invalid("LISTEN_FDS is \(count), but descriptor \(descriptor) is not open")
        }
        return (first..<first + number).map { FileDescriptor(rawValue: $0) }
    }

    /// A listener on `address`: the socket that was handed over, if one is bound there, else a new one. For a server that can
    /// be upgraded while it serves, this takes the place of `Listener(_:options:)`. With port 0 it is one of any port.
    ///
    /// Any process, before the first thread, after or instead of `take()`.
    ///
    /// - Throws: as `take()` and `Listener(_:datagram:options:)` do.
    public static func listener(
        on address: SocketAddress, options: Listener.Options = Listener.Options()
    ) throws(ForkingError) -> Listener {
        let taken = try take().map(\.rawValue)
        let found = unclaimed.withLock { sockets -> Int32? in
            sockets += taken
            let place = sockets.firstIndex { (try? SocketAddress(boundTo: $0))?.isTaken(for: address) ?? false }
            return place.map { sockets.remove(at: $0) }
        }
        guard let found else { return try Listener(address, options: options) }
        return try Listener(succeedingOn: found, owned: Predecessor.owned(Int(found - first)))
    }

    /// A listener on a socket that whoever started this program left open as `descriptor`. In a program that takes the place
    /// of another it is the socket which that one served on, whatever its number here. For a server that can be upgraded
    /// while it serves, this takes the place of `Listener(adopting:)`.
    ///
    /// Any process, before the first thread.
    ///
    /// - Throws: as `take()` and `Listener(adopting:)` do.
    public static func listener(adopting descriptor: FileDescriptor) throws(ForkingError) -> Listener {
        guard Predecessor.isThere else { return try Listener(adopting: descriptor) }
        let taken = try take().map(\.rawValue)
        let found = unclaimed.withLock { sockets -> Int32? in
            sockets += taken
            return sockets.isEmpty ? nil : sockets.removeFirst()
        }
        return try Listener(adopting: found.map { FileDescriptor(rawValue: $0) } ?? descriptor)
    }

    /// What was handed over, and this program has no use for: clients are to be refused there, not to wait for ever.
    static func closeUnclaimed() {
        unclaimed.withLock { sockets in
            sockets.forEach(forkcore_close)
            sockets = []
        }
    }

    private static let first: Int32 = 3
    private static let unclaimed = Mutex<[Int32]>([])

    private static func variable(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }
    }
}

extension SocketAddress {
    /// Whether a socket bound here is what was asked for.
    fileprivate func isTaken(for asked: SocketAddress) -> Bool {
        self == asked || (asked.port == 0 && ip == asked.ip)
    }
}
