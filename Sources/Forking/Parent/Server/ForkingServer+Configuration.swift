// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

extension ForkingServer {
    /// How a server behaves. The defaults are the seed's where it has one.
    public struct Configuration: Sendable {
        /// How many children there are at once, at least 1. Further clients wait in the kernel's queue.
        public var maxChildren = 40
        /// How long without a new client until `ForkingServer.Hooks.handleTimeout` runs; nil: never.
        public var idleTimeout: Duration? = .seconds(300)
        /// How long one connection may take; then its child gets SIGTERM, and `killAfter` later SIGKILL, each with its
        /// process group. Nil: as long as it likes.
        public var timeLimit: Duration?
        /// How long one read or write of a connection may wait for the peer; nil: for ever. `Connection.setTimeout`.
        public var ioTimeout: Duration?
        /// Sends small writes at once. TCP_NODELAY; for TCP alone.
        public var noDelay = false
        /// The longest datagram in bytes; of a longer one the rest is lost, and it is marked as truncated.
        public var datagramLimit = 8192
        /// Signals that stop the server while it serves: the first drains, the second terminates, the third kills. So do
        /// SIGHUP and SIGQUIT, which would end it with all its clients, unless a hook takes them, they are ignored, as by
        /// nohup(1), or this is empty.
        public var stopSignals: Set<Signal> = [.terminate, .interrupt]
        /// How long a new program may take to be ready that SIGUSR2 has started; then it is ended, and this one goes on.
        public var spawnLimit: Duration = .seconds(30)
        /// How long children may go on with what they do once the server stops; then they get SIGTERM.
        public var drain: Duration = .seconds(10)
        /// From SIGTERM to SIGKILL, at a time limit and when the server stops.
        public var killAfter: Duration = .seconds(3)
        /// Whether stopping and closing end the children, as said above. If not they are sent nothing, and stay unreaped
        /// unless `collectChildren()` is called. They still die with this process, but for `childrenDieWithParent`.
        public var blockOnClose = true
        /// How what a client's process starts is kept together. Nil: `.session` for programs, `.group` for handlers.
        public var containment: Containment?
        /// See `ChildOptions.diesWithParent`.
        public var childrenDieWithParent = true
        /// See `ChildOptions.crashBacktraces`.
        public var crashBacktraces = false
        /// See `ChildOptions.allowsThreads`.
        public var allowsThreads = false

        /// Whom children act as; nil: as this process. See `ChildOptions.credentials`.
        public var credentials: Credentials?
        /// See `ChildOptions.oomScore`.
        public var oomScore: Int?

        /// See `ChildTable.reapStrangers()`: for a program that has no other children than the server's.
        public var reapsStrangers = false

        /// A Unix socket on which the server tells who asks, such as `forkserve status`, what its processes do. It is made
        /// as the server begins to serve, with permissions for this user alone, and removed at the end. Nil: none.
        public var control: SocketAddress?

        /// The defaults, as said at each property.
        public init() {}

        func checked() throws(ForkingError) -> Configuration {
            guard maxChildren >= 1 else {
                throw .invalid("maxChildren is \(maxChildren), and must be at least 1")
            }
            guard (1...65_535).contains(datagramLimit) else {
                throw .invalid("datagramLimit is \(datagramLimit), and must be from 1 to 65535 bytes")
            }
            guard drain >= .zero else { throw .invalid("drain is \(drain), and cannot be negative") }
            guard spawnLimit > .zero else { throw .invalid("spawnLimit is \(spawnLimit), and must be positive") }
            for (name, limit) in [("idleTimeout", idleTimeout), ("ioTimeout", ioTimeout)] {
                if let limit, limit <= .zero {
                    throw .invalid("\(name) is \(limit), and must be positive, or nil for none")
                }
            }
            try ServerLoop.checkTakeable(stopSignals)
            try ServerLoop.checkControl(control)
            try childOptions.check()
            return self
        }

        /// Throws unless there can be a descriptor for each child that is a program, and some for the server.
        func checkDescriptors() throws(ForkingError) {
            let others = 16 + Int(FORKCORE_BERTHS)
            var limit = rlimit()
            guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
            let allowed = Int(clamping: limit.rlim_cur)
            guard maxChildren > max(0, allowed - others) else { return }
            throw .invalid(
                "maxChildren is \(maxChildren), and the limit of descriptors (ulimit -n) is \(allowed), which are enough for "
                    + "\(max(0, allowed - others)) children that are programs: lower the one or raise the other")
        }

        var childOptions: ChildOptions {
            var options = ChildOptions()
            options.containment = containment
            options.diesWithParent = childrenDieWithParent
            options.timeLimit = timeLimit
            options.killAfter = killAfter
            options.crashBacktraces = crashBacktraces
            options.credentials = credentials
            options.oomScore = oomScore
            options.allowsThreads = allowsThreads
            return options
        }
    }
}
