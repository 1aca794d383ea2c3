// SPDX-License-Identifier: Apache-2.0

extension PreforkServer {
    /// How a pool of workers behaves.
    public struct Configuration: Sendable {
        /// The number of workers, at least 1. By default, one for each core that this process may use, according to its
        /// CPU affinity and its control groups.
        public var workers = UsableCores.count
        /// If larger than `workers`: the pool grows up to this number while no worker is idle and clients are queued,
        /// and shrinks back slowly. SIGTTIN and SIGTTOU change both bounds. Nil: the pool does not grow.
        public var maxWorkers: Int?
        /// How long a new worker may take to be ready. After that it is killed, and counts as a failure. Also how long the
        /// program that SIGUSR2 starts may take; after that it is ended, and this one goes on.
        public var startTimeout: Duration = .seconds(30)
        /// After this many failures in a row the server gives up: it stops, and `serve()` throws. A worker fails if it
        /// ends before it was ready, or before its first request. Nil: the server retries forever, at longer and longer
        /// intervals.
        public var maxFailures: Int?
        /// A worker is replaced after this many requests, plus or minus a tenth, so that not all are replaced at the
        /// same time. Nil: never.
        public var maxRequests: Int?
        /// A worker is replaced after this time, plus or minus a tenth. Nil: never.
        public var maxAge: Duration?
        /// A worker that uses more memory than this, in KiB, is replaced. The measure is the proportional set size,
        /// which divides shared pages among the processes that share them. Nil: never. See proc_pid_smaps(5).
        public var maxMemoryKiB: Int?
        /// How long a request may take. A worker that serves one for longer gets SIGABRT, `child.killTimeout` later
        /// SIGKILL, and is replaced, whatever else it serves. While the server stops, `drainTimeout` is the limit
        /// instead; while the worker is being replaced, see `replacementDrainTimeout`. Nil: no limit.
        public var requestTimeout: Duration?
        /// How long a worker may continue with its requests after it was taken out of service while the server serves:
        /// because it is replaced, is one too many, or got SIGTERM. Then it gets SIGTERM, and `child.killTimeout` later
        /// SIGKILL. Nil: each request has all of its `requestTimeout`, and other connections end after `requestTimeout`
        /// or `drainTimeout`, whichever is longer. While the server stops, `drainTimeout` is the limit.
        public var replacementDrainTimeout: Duration?
        /// How long a worker may go without `Worker.sendHeartbeat()`. After that it is ended as described at
        /// `requestTimeout`. A worker that waits in `Worker.accept()`, as handlers' workers do, need not send one; an
        /// accepted client counts as one. Nil: no limit.
        public var heartbeatTimeout: Duration?
        /// The maximum number of workers that are replaced at the same time.
        public var maxReplacedAtOnce = 1
        /// What counts as a request. Used only if the server has a handler.
        public var requestUnit = RequestUnit.connection
        /// How long one read or write of a connection may wait for the peer. Nil: forever. Used only if the server has
        /// a handler. Connections inherit it from the listeners: SO_RCVTIMEO and SO_SNDTIMEO in socket(7).
        public var ioTimeout: Duration?
        /// Sends small writes at once. TCP only; connections inherit it from the listeners: TCP_NODELAY in tcp(7).
        public var noDelay = false
        /// Signals that stop the server: the first drains, the second terminates, the third kills. SIGQUIT does the
        /// same, unless a hook takes it, it is ignored, or this set is empty. SIGHUP, SIGTTIN, SIGTTOU and SIGUSR2
        /// cannot be among them.
        public var stopSignals: Set<Signal> = [.terminate, .interrupt]
        /// How long workers may continue with their requests once the server stops; then they get SIGTERM, and
        /// `child.killTimeout` later SIGKILL.
        public var drainTimeout: Duration = .seconds(10)
        /// Whether a worker that is ended because it is stuck prints a short backtrace to stderr. backtrace(3).
        public var printsStuckBacktrace = false
        /// How the workers are set up and limited. `timeout` must be nil: `maxAge` takes its place. `allowsThreads`
        /// must be false; workers may always start threads.
        public var child = ChildOptions()

        /// See `ChildTable.reapStrangers()`. Only for a program that has no children other than the server's.
        public var reapsStrangers = false

        /// A Unix socket on which the server reports its processes to clients such as `forkserve status`. The server
        /// makes it when it begins to serve, with permissions for this user alone, and removes it at the end. Nil:
        /// none.
        public var control: SocketAddress?

        /// Creates a configuration with the defaults.
        public init() {}

        /// The maximum number of workers, which SIGTTIN cannot exceed either.
        static let ceiling = 1024

        func checked() throws(ForkingError) -> Configuration {
            guard (1...Self.ceiling).contains(workers) else {
                throw .invalid("workers is \(workers), and must be from 1 to \(Self.ceiling)")
            }
            if let maxWorkers, !(workers...Self.ceiling).contains(maxWorkers) {
                throw .invalid(
                    "maxWorkers is \(maxWorkers), and must be from workers, which is \(workers), to \(Self.ceiling)")
            }
            try requireAtLeast1("maxReplacedAtOnce", maxReplacedAtOnce)
            try requireAtLeast1("maxFailures", maxFailures)
            try requireAtLeast1("maxRequests", maxRequests)
            try requireAtLeast1("maxMemoryKiB", maxMemoryKiB)
            try requirePositive("startTimeout", startTimeout)
            try requirePositive("maxAge", maxAge)
            try requirePositive("requestTimeout", requestTimeout)
            try requirePositive("heartbeatTimeout", heartbeatTimeout)
            try requirePositive("ioTimeout", ioTimeout)
            try requireNotNegative("drainTimeout", drainTimeout)
            try requireNotNegative("replacementDrainTimeout", replacementDrainTimeout)
            if let signal = stopSignals.first(where: PreforkServer.ownSignals.contains) {
                throw .invalid("\(signal) has a meaning of its own, and cannot be one of stopSignals")
            }
            try ServerLoop.checkTakeable(stopSignals)
            try ServerLoop.checkControl(control)
            try child.check()
            guard child.timeout == nil else {
                throw .invalid(
                    "child.timeout is not for workers: use maxAge for a worker's age, requestTimeout for a request")
            }
            guard child.diesWithParent, !child.allowsThreads else {
                throw .invalid(
                    "workers die with their server, which has one thread: "
                        + "child.diesWithParent must be true, and child.allowsThreads must be false")
            }
            return self
        }

        /// The children's options, with the default containment of workers.
        var childOptions: ChildOptions {
            var options = child
            options.containment = child.containment ?? .session
            return options
        }

        var rules: PoolPolicy.Rules {
            PoolPolicy.Rules(
                startTimeout: startTimeout, requestTimeout: requestTimeout, heartbeatTimeout: heartbeatTimeout,
                drainTimeout: replacementDrainTimeout ?? max(requestTimeout ?? .zero, drainTimeout),
                isDrainTimeoutFirm: replacementDrainTimeout != nil, killTimeout: child.killTimeout,
                maxReplacedAtOnce: maxReplacedAtOnce,
                maxFailures: maxFailures, limitsMemory: maxMemoryKiB != nil)
        }

        var size: PoolSize {
            PoolSize(minimum: workers, maximum: maxWorkers ?? workers, ceiling: Self.ceiling)
        }
    }

    /// What counts as a request for `maxRequests` and `requestTimeout`, if the server has a handler.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum RequestUnit: Sendable {
        /// Each connection is one request, from accept until close.
        case connection
        /// The handler declares requests with `Worker.beginRequest(from:)`. So a client that sends nothing can keep a
        /// worker busy for `ioTimeout`, but does not make it look stuck.
        case declared
    }

    /// The signals that the pool takes whatever `stopSignals` contains.
    static let ownSignals: Set<Signal> = [.hangup, .ttyInput, .ttyOutput, .userDefinedTwo]
}
