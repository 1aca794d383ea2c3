// SPDX-License-Identifier: Apache-2.0

extension PreforkServer {
    /// How a pool of workers behaves.
    public struct Configuration: Sendable {
        /// How many workers there are, at least 1: by default one per core that this process may use, as its affinity and
        /// its control groups say.
        public var workers = UsableCores.count
        /// With more than `workers`, the pool grows up to this while no worker is idle and clients are queued, and shrinks back
        /// slowly. SIGTTIN and SIGTTOU move both. Nil: no more than `workers`.
        public var maxWorkers: Int?
        /// How long a new worker may take to be ready; then it is killed, and counts as one that failed.
        public var spawnLimit: Duration = .seconds(30)
        /// After so many workers in a row that failed before they were ready, or before their first request, the server
        /// gives up: it stops, and `serve()` throws. Nil: it goes on for ever, at longer and longer intervals.
        public var givesUpAfter: Int?
        /// After so many requests a worker is replaced, give or take a tenth, so that not all are at once. Nil: never.
        public var maxRequests: Int?
        /// After this time a worker is replaced, give or take a tenth. Nil: never.
        public var maxAge: Duration?
        /// A worker that has more memory than this is replaced, in KiB: its proportional set size, in which what several
        /// processes share is divided among them. Nil: never.
        public var maxMemoryKiB: Int?
        /// How long a request may take; a worker that serves one for longer gets SIGABRT, `killAfter` later SIGKILL, and is
        /// replaced, whatever else it serves. While the server stops, `drain` is the limit instead; while the worker is being
        /// replaced, see `replacementDrain`. Nil: as long as it likes.
        public var requestLimit: Duration?
        /// How long a worker that is taken out while the server serves – replaced, one too many, or sent SIGTERM – may go on
        /// with what it has begun; then it gets SIGTERM, and `killAfter` later SIGKILL. Nil: each request has all of its
        /// `requestLimit`, and connections without one are ended after that time, or after `drain` if it is longer or there
        /// is no `requestLimit`. While the server stops, `drain` is the limit.
        public var replacementDrain: Duration?
        /// How long a worker may go without `Worker.heartbeat()`; then as for `requestLimit`. One that waits in
        /// `Worker.accept()`, as handlers' do, need not; a client that is accepted is a beat. Nil: it need not.
        public var heartbeatLimit: Duration?
        /// How many workers are replaced at the same time when they all are, by SIGHUP, and otherwise at most.
        public var replacedAtOnce = 1
        /// Where a handler serves: whether each connection is one request, from when it is accepted until it is closed. If not,
        /// the handler says by `Worker.requestBegan()` and `requestEnded()` when it has one; so a client that sends nothing
        /// keeps a worker, for `ioTimeout`, but does not make it look stuck.
        public var countsConnections = true
        /// How long one read or write of a connection may wait for the peer; nil: for ever. SO_RCVTIMEO and SO_SNDTIMEO, of
        /// the listeners and so of what they accept. Only where a handler serves.
        public var ioTimeout: Duration?
        /// Sends small writes at once. TCP_NODELAY, of the listeners and so of what they accept; for TCP alone.
        public var noDelay = false
        /// Signals that stop the server: the first drains, the second terminates, the third kills. SIGHUP, SIGTTIN, SIGTTOU
        /// and SIGUSR2 have meanings of their own.
        public var stopSignals: Set<Signal> = [.terminate, .interrupt]
        /// How long workers may go on with what they have begun once the server stops; then they get SIGTERM.
        public var drain: Duration = .seconds(10)
        /// From SIGTERM, or SIGABRT, to SIGKILL.
        public var killAfter: Duration = .seconds(3)
        /// How what a worker starts is kept together.
        public var containment = Containment.session
        /// Whether a worker that is ended because it is stuck says on stderr where it stands, in some lines. backtrace(3).
        public var stuckBacktraces = false
        /// See `ChildOptions.crashBacktraces`.
        public var crashBacktraces = false

        /// Whom workers act as; nil: as this process. See `ChildOptions.credentials`.
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

        /// More workers than this SIGTTIN makes none.
        static let ceiling = 1024

        func checked() throws(ForkingError) -> Configuration {
            guard (1...Self.ceiling).contains(workers) else {
                throw .invalid("workers is \(workers), and must be from 1 to \(Self.ceiling)")
            }
            if let maxWorkers, !(workers...Self.ceiling).contains(maxWorkers) {
                throw .invalid(
                    "maxWorkers is \(maxWorkers), and must be from workers, which is \(workers), to \(Self.ceiling)")
            }
            guard replacedAtOnce >= 1 else {
                throw .invalid("replacedAtOnce is \(replacedAtOnce), and must be at least 1")
            }
            for (name, count) in [
                ("givesUpAfter", givesUpAfter), ("maxRequests", maxRequests), ("maxMemoryKiB", maxMemoryKiB),
            ] {
                if let count, count < 1 {
                    throw .invalid("\(name) is \(count), and must be at least 1, or nil for none")
                }
            }
            let limits = [
                ("spawnLimit", spawnLimit), ("maxAge", maxAge), ("requestLimit", requestLimit),
                ("heartbeatLimit", heartbeatLimit), ("ioTimeout", ioTimeout),
            ]
            for (name, limit) in limits {
                if let limit, limit <= .zero {
                    throw .invalid("\(name) is \(limit), and must be positive, or nil for none")
                }
            }
            let times = [("drain", drain), ("replacementDrain", replacementDrain ?? .zero), ("killAfter", killAfter)]
            for (name, time) in times where time < .zero {
                throw .invalid("\(name) is \(time), and cannot be negative")
            }
            if let signal = stopSignals.first(where: PreforkServer.ownSignals.contains) {
                throw .invalid("\(signal) has a meaning of its own, and cannot be one of stopSignals")
            }
            try ServerLoop.checkTakeable(stopSignals)
            try ServerLoop.checkControl(control)
            try childOptions.check()
            return self
        }

        var childOptions: ChildOptions {
            var options = ChildOptions()
            options.containment = containment
            options.killAfter = killAfter
            options.crashBacktraces = crashBacktraces
            options.credentials = credentials
            options.oomScore = oomScore
            return options
        }

        var rules: PoolPolicy.Rules {
            PoolPolicy.Rules(
                startTimeout: spawnLimit, requestTimeout: requestLimit, heartbeatTimeout: heartbeatLimit,
                drainTimeout: replacementDrain ?? max(requestLimit ?? .zero, drain),
                isDrainTimeoutFirm: replacementDrain != nil, killTimeout: killAfter, maxReplacedAtOnce: replacedAtOnce,
                maxFailures: givesUpAfter, limitsMemory: maxMemoryKiB != nil)
        }

        var size: PoolSize {
            PoolSize(minimum: workers, maximum: maxWorkers ?? workers, ceiling: Self.ceiling)
        }
    }

    /// What is taken as an event whatever `stopSignals` says.
    static let ownSignals: Set<Signal> = [.hangup, .ttyInput, .ttyOutput, .user2]
}
