// SPDX-License-Identifier: Apache-2.0

extension PreforkServer {
    /// How a pool of workers behaves.
    public struct Configuration: Sendable {
        /// How many workers there are, at least 1: by default one per core that this process may use, as its affinity
        /// and its control groups say.
        public var workers = UsableCores.count
        /// With more than `workers`, the pool grows up to this while no worker is idle and clients are queued, and
        /// shrinks back slowly. SIGTTIN and SIGTTOU move both. Nil: no more than `workers`.
        public var maxWorkers: Int?
        /// How long a new worker may take to be ready; then it is killed, and counts as one that failed.
        public var startTimeout: Duration = .seconds(30)
        /// After so many workers in a row that failed before they were ready, or before their first request, the server
        /// gives up: it stops, and `serve()` throws. Nil: it goes on for ever, at longer and longer intervals.
        public var maxFailures: Int?
        /// After so many requests a worker is replaced, give or take a tenth, so that not all are at once. Nil: never.
        public var maxRequests: Int?
        /// After this time a worker is replaced, give or take a tenth. Nil: never.
        public var maxAge: Duration?
        /// A worker that has more memory than this is replaced, in KiB: its proportional set size, in which what
        /// several processes share is divided among them. Nil: never.
        public var maxMemoryKiB: Int?
        /// How long a request may take; a worker that serves one for longer gets SIGABRT, `child.killTimeout` later
        /// SIGKILL, and is replaced, whatever else it serves. While the server stops, `drain` is the limit instead;
        /// while the worker is being replaced, see `replacementDrainTimeout`. Nil: as long as it likes.
        public var requestTimeout: Duration?
        /// How long a worker that is taken out while the server serves – replaced, one too many, or sent SIGTERM – may
        /// go on with what it has begun; then it gets SIGTERM, and `child.killTimeout` later SIGKILL. Nil: each request
        /// has all of its `requestTimeout`, and connections without one are ended after that time, or after `drain` if
        /// it is longer or there is no `requestTimeout`. While the server stops, `drain` is the limit.
        public var replacementDrainTimeout: Duration?
        /// How long a worker may go without `Worker.sendHeartbeat()`; then as for `requestTimeout`. One that waits in
        /// `Worker.accept()`, as handlers' do, need not; a client that is accepted is a beat. Nil: it need not.
        public var heartbeatTimeout: Duration?
        /// How many workers are replaced at the same time when they all are, by SIGHUP, and otherwise at most.
        public var maxReplacedAtOnce = 1
        /// What counts as a request where a handler serves.
        public var requestUnit = RequestUnit.connection
        /// How long one read or write of a connection may wait for the peer; nil: for ever. SO_RCVTIMEO and
        /// SO_SNDTIMEO, of the listeners and so of what they accept. Only where a handler serves.
        public var ioTimeout: Duration?
        /// Sends small writes at once. TCP_NODELAY, of the listeners and so of what they accept; for TCP alone.
        public var noDelay = false
        /// Signals that stop the server: the first drains, the second terminates, the third kills. SIGHUP, SIGTTIN,
        /// SIGTTOU and SIGUSR2 have meanings of their own.
        public var stopSignals: Set<Signal> = [.terminate, .interrupt]
        /// How long workers may go on with what they have begun once the server stops; then they get SIGTERM, and
        /// `child.killTimeout` later SIGKILL.
        public var drainTimeout: Duration = .seconds(10)
        /// Whether a worker that is ended because it is stuck says on stderr where it stands, in some lines.
        /// backtrace(3).
        public var printsStuckBacktrace = false
        /// How the workers are set up and bounded. They have no `timeout`, but `maxAge`; and may always start threads.
        public var child = ChildOptions()

        /// See `ChildTable.reapStrangers()`: for a program that has no other children than the server's.
        public var reapsStrangers = false

        /// A Unix socket on which the server tells who asks, such as `forkserve status`, what its processes do. It is
        /// made as the server begins to serve, with permissions for this user alone, and removed at the end. Nil: none.
        public var control: SocketAddress?

        /// The defaults, as said at each property.
        public init() {}

        /// The most workers that SIGTTIN can ask for.
        static let ceiling = 1024

        func checked() throws(ForkingError) -> Configuration {
            guard (1...Self.ceiling).contains(workers) else {
                throw .invalid("workers is \(workers), and must be from 1 to \(Self.ceiling)")
            }
            if let maxWorkers, !(workers...Self.ceiling).contains(maxWorkers) {
                throw .invalid(
                    "maxWorkers is \(maxWorkers), and must be from workers, which is \(workers), to \(Self.ceiling)")
            }
            guard maxReplacedAtOnce >= 1 else {
                throw .invalid("maxReplacedAtOnce is \(maxReplacedAtOnce), and must be at least 1")
            }
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
                    "child.timeout is for other children: maxAge bounds a worker's age, requestTimeout a request")
            }
            guard child.diesWithParent, !child.allowsThreads else {
                throw .invalid(
                    "workers die with their server, which has one thread: "
                        + "child.diesWithParent is true, and child.allowsThreads is false")
            }
            return self
        }

        /// The children's options, with what is the default for workers.
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

    /// What counts as a request, for `maxRequests` and `requestTimeout`, where a handler serves.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum RequestUnit: Sendable {
        /// Each connection is one, from when it is accepted until it is closed.
        case connection
        /// What the handler says, by `Worker.beginRequest(from:)`. So a client that sends nothing keeps a worker for
        /// `ioTimeout`, but does not make it look stuck.
        case declared
    }

    /// What is taken as an event whatever `stopSignals` says.
    static let ownSignals: Set<Signal> = [.hangup, .ttyInput, .ttyOutput, .userDefinedTwo]
}
