// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage

/// Sockets that a service manager opened and handed to this process: descriptors 3 and up, as LISTEN_PID and LISTEN_FDS
/// say. See sd_listen_fds(3).
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
        guard let number = Int32(count), number >= 0, number < Int32.max - 3 else {
            throw .invalid("LISTEN_FDS is '\(count)', and should be the number of sockets handed over")
        }
        let first: Int32 = 3
        for descriptor in first..<first + number where fcntl(descriptor, F_SETFD, FD_CLOEXEC) < 0 {
            throw .invalid("LISTEN_FDS is \(count), but descriptor \(descriptor) is not open")
        }
        return (first..<first + number).map { FileDescriptor(rawValue: $0) }
    }

    private static func variable(_ name: String) -> String? {
        getenv(name).map { String(cString: $0) }
    }
}
