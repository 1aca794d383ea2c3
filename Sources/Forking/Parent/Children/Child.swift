// SPDX-License-Identifier: Apache-2.0

/// How a child is set up and bounded: the same for every child of a `ChildTable`, a `ForkingServer`, a `PreforkServer`
/// and a `Zygote`. The defaults are those of a server's child.
public struct ChildOptions: Sendable {
    /// How what the child starts is kept together. Nil: `.session` for programs and workers, `.group` for others.
    public var containment: Containment?
    /// The kernel kills the child when the thread that forked it ends, be it by SIGKILL. PR_SET_PDEATHSIG in prctl(2).
    ///
    /// A child that changes its user or group by itself, also by a set-user-ID program, loses this, unless its
    /// `containment` is `.descendants`: then a process that outlives this one sees to it. One that is given
    /// `credentials` keeps it.
    public var diesWithParent = true
    /// How long the child may live; then it gets SIGTERM, and `killTimeout` later SIGKILL, each with its process group.
    /// Nil: as long as it likes.
    public var timeout: Duration?
    /// From SIGTERM to SIGKILL, at the child's own timeout and when its server stops.
    public var killTimeout: Duration = .seconds(3)
    /// Whether a crash of the child may run Swift's backtrace, which can take a minute of full CPU and a gigabyte of
    /// memory, with the client still connected. Off, a crash ends the child at once.
    public var printsCrashBacktrace = false
    /// Fork although this process has more than one thread. The child must then do nothing but call C functions that
    /// are async-signal-safe: everything else can hang on a lock that another thread held. See docs/FORK_SAFETY.md.
    public var allowsThreads = false

    /// Whom it acts as; nil: as its parent. setresuid(2), setresgid(2), setgroups(2).
    ///
    /// A child that cannot take on its credentials, score or limits ends with status 126, and serves nobody; a program
    /// is not executed then. A server tries that in a child of its own before it serves.
    public var credentials: Credentials?
    /// How soon the kernel ends it when memory is short, from -1000, never, to 1000, first; nil: as its parent. Less
    /// than its parent has takes root. oom_score_adj in proc(5).
    public var oomScore: Int?
    /// What it may use.
    public var limits = ResourceLimits()

    /// Signals that do nothing to it until its body takes them, as they are meant for its parent.
    var heedless: SignalSet = []

    /// The defaults, as said at each property.
    public init() {}

    func check() throws(ForkingError) {
        try requirePositive("timeout", timeout)
        try requireNotNegative("killTimeout", killTimeout)
        if let oomScore, !(-1000...1000).contains(oomScore) {
            throw .invalid("oomScore is \(oomScore), and must be from -1000 to 1000")
        }
        try limits.check()
    }
}

/// A live child, as its table knows it. Plain bytes: see `ChildSlots`.
struct Child: BitwiseCopyable {
    /// running → terminating (SIGTERM was sent) → killed (SIGKILL was sent)
    enum Stage { case running, terminating, killed }
    /// Whether it has ended and cannot be reaped: not so far as is known → so it seems → so it was told.
    enum Hold { case none, seen, told }

    /// 0 in a slot that is reserved only.
    let pid: ProcessID
    var peer: SocketAddress?
    var startedAt: Instant
    let hasGroup: Bool
    /// -1 but in a table that works with pidfds.
    let pidfd: Int32
    var stage = Stage.running
    var hold = Hold.none
    /// It was sent SIGKILL, be it by a stage or by anybody who asked for that.
    var isKilled = false
    /// It may not be signalled, and that was told.
    var isBeyondUs = false
    var reason = ChildExit.Reason.own
    /// When its next stage comes: the time limit, then the kill.
    var deadline: Instant?
    let killTimeout: Duration
    /// Nobody forked it here: a child left it behind.
    var isLeftover = false
    /// Of a zygote's child, its call's.
    var channel: Int32 = -1

    init(
        _ pid: ProcessID, _ peer: SocketAddress?, _ startedAt: Instant, _ options: ChildOptions, pidfd: Int32
    ) {
        self.pid = pid
        self.peer = peer
        self.startedAt = startedAt
        self.pidfd = pidfd
        hasGroup = options.containment != Containment.none
        deadline = options.timeout.map { startedAt + $0 }
        killTimeout = options.killTimeout
    }

    static let none = Child(0, nil, Instant(nanoseconds: 0), ChildOptions(), pidfd: -1)
}

/// A live child, as others may see it.
public struct ChildInfo: Sendable {
    /// Its number, good for as long as it is in the table.
    public let pid: ProcessID
    /// Whom it serves, if it was forked with a peer.
    public let peer: SocketAddress?
    /// Since it was forked.
    public let age: Duration
    /// Whether it was told to end, by a time limit or because its table stops.
    public let isEnding: Bool
    /// Whether it is not the child itself, but what one has left behind. See `Containment.descendants`.
    public let isLeftover: Bool
}

extension ChildTable {
    /// The live children, oldest first.
    public var children: [ChildInfo] {
        requireParent()
        let now = Instant.now
        var all: [Child] = []
        forEachChild { all.append($1) }
        return all.sorted { ($0.startedAt, $0.pid) < ($1.startedAt, $1.pid) }.map {
            ChildInfo(
                pid: $0.pid, peer: $0.peer, age: now - $0.startedAt, isEnding: $0.stage != .running,
                isLeftover: $0.isLeftover)
        }
    }
}
