// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

extension ForkingServer {
    /// How a server behaves. The defaults follow Python's `socketserver` where it has an equivalent.
    public struct Configuration: Sendable {
        /// The maximum number of children at the same time, at least 1. Further clients wait in the kernel's queue.
        public var maxChildren = 40
        /// `Hooks.onIdle` runs after this time without a new client. Nil: never.
        public var idleTimeout: Duration? = .seconds(300)
        /// How long one read or write of a connection may wait for the peer. Nil: forever. See `Connection.setTimeout`.
        public var ioTimeout: Duration?
        /// Sends small writes at once. TCP only: TCP_NODELAY in tcp(7).
        public var noDelay = false
        /// The maximum length of a datagram, in bytes. A longer one is cut off and marked as truncated.
        public var maxDatagramBytes = 8192
        /// Signals that stop the server while it serves: the first drains, the second terminates, the third kills. So
        /// do SIGHUP and SIGQUIT, which would otherwise end the server with all its clients. They do not if a hook
        /// takes them, if they are ignored (nohup(1)), or if this set is empty.
        public var stopSignals: Set<Signal> = [.terminate, .interrupt]
        /// How long the program that SIGUSR2 starts may take to be ready. After that it is killed, and this server
        /// continues.
        public var startTimeout: Duration = .seconds(30)
        /// How long children may continue once the server stops; then they get SIGTERM, and `child.killTimeout` later
        /// SIGKILL.
        public var drainTimeout: Duration = .seconds(10)
        /// Whether stopping and closing wait for the children, and end them as described above. If false, children are
        /// sent no signal, and stay unreaped until `children.collect()` is called. They still die with this process,
        /// unless `child.diesWithParent` is false.
        public var waitsForChildren = true
        /// How the children are set up and limited. `child.timeout` limits how long one client is served.
        public var child = ChildOptions()

        /// Who is served, and how much of the server one source may have. Nil: every client is served.
        public var admission: AdmissionPolicy?

        /// See `ChildTable.reapStrangers()`. Only for a program that has no children other than the server's.
        public var reapsStrangers = false

        /// A Unix socket on which the server reports its processes to clients such as `forkserve status`. The server
        /// makes it when it begins to serve, with permissions for this user alone, and removes it at the end. Nil:
        /// none.
        public var control: SocketAddress?

        /// Creates a configuration with the defaults.
        public init() {}

        func checked() throws(ForkingError) -> Configuration {
            try requireAtLeast1("maxChildren", maxChildren)
            guard (1...65_535).contains(maxDatagramBytes) else {
                throw .invalid("maxDatagramBytes is \(maxDatagramBytes), and must be from 1 to 65535")
            }
            try requirePositive("idleTimeout", idleTimeout)
            try requirePositive("ioTimeout", ioTimeout)
            try requirePositive("startTimeout", startTimeout)
            try requireNotNegative("drainTimeout", drainTimeout)
            try ServerLoop.checkTakeable(stopSignals)
            try ServerLoop.checkControl(control)
            try child.check()
            try admission?.check(maxChildren: maxChildren)
            return self
        }

        /// Throws unless RLIMIT_NOFILE allows a descriptor for each child that is a program, and some for the server.
        func checkDescriptors() throws(ForkingError) {
            let others = 16 + Int(FORKCORE_SPAWN_SLOTS)
            var limit = rlimit()
            guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
            let allowed = Int(clamping: limit.rlim_cur)
            guard maxChildren > max(0, allowed - others) else { return }
            throw .invalid(
                "maxChildren is \(maxChildren), and the limit of descriptors (ulimit -n) is \(allowed), enough for "
                    + "\(max(0, allowed - others)) programs: lower the number of children or raise the limit")
        }
    }
}
