// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

extension ForkingServer {
    /// How a server behaves. The defaults follow Python's `socketserver` where it has an equivalent.
    public struct Configuration: Sendable {
        /// How many children there are at once, at least 1. Further clients wait in the kernel's queue.
        public var maxChildren = 40
        /// How long without a new client until `Hooks.onIdle` runs; nil: never.
        public var idleTimeout: Duration? = .seconds(300)
        /// How long one read or write of a connection may wait for the peer; nil: for ever. `Connection.setTimeout`.
        public var ioTimeout: Duration?
        /// Sends small writes at once. TCP_NODELAY; for TCP alone.
        public var noDelay = false
        /// The longest datagram in bytes; of a longer one the rest is lost, and it is marked as truncated.
        public var maxDatagramBytes = 8192
        /// Signals that stop the server while it serves: the first drains, the second terminates, the third kills. So
        /// do SIGHUP and SIGQUIT, which would end it with all its clients, unless a hook takes them, they are ignored,
        /// as by nohup(1), or this is empty.
        public var stopSignals: Set<Signal> = [.terminate, .interrupt]
        /// How long the program that SIGUSR2 starts may take to be ready; then it is ended, and this one goes on.
        public var startTimeout: Duration = .seconds(30)
        /// How long children may go on once the server stops; then they get SIGTERM, and `child.killTimeout` later
        /// SIGKILL.
        public var drainTimeout: Duration = .seconds(10)
        /// Whether stopping and closing wait for the children, and end them as said above. If not, children are sent
        /// nothing, and stay unreaped unless `children.collect()` is called. They still die with this process, but for
        /// `child.diesWithParent`.
        public var waitsForChildren = true
        /// How the children are set up and bounded. `child.timeout` is how long one client may be served.
        public var child = ChildOptions()

        /// See `ChildTable.reapStrangers()`: for a program that has no other children than the server's.
        public var reapsStrangers = false

        /// A Unix socket on which the server tells who asks, such as `forkserve status`, what its processes do. It is
        /// made as the server begins to serve, with permissions for this user alone, and removed at the end. Nil: none.
        public var control: SocketAddress?

        /// The defaults, as said at each property.
        public init() {}

        func checked() throws(ForkingError) -> Configuration {
            guard maxChildren >= 1 else {
                throw .invalid("maxChildren is \(maxChildren), and must be at least 1")
            }
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
            return self
        }

        /// Throws unless there can be a descriptor for each child that is a program, and some for the server.
        func checkDescriptors() throws(ForkingError) {
            let others = 16 + Int(FORKCORE_SPAWN_SLOTS)
            var limit = rlimit()
            guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
            let allowed = Int(clamping: limit.rlim_cur)
            guard maxChildren > max(0, allowed - others) else { return }
            throw .invalid(
                "maxChildren is \(maxChildren), and the limit of descriptors (ulimit -n) is \(allowed), which are enough for "
                    + "\(max(0, allowed - others)) children that are programs: lower the one or raise the other")
        }
    }
}
