// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// How a child is set up and limited: the same for every child of a `ChildTable`, a `ForkingServer`, a `PreforkServer`
/// and a `Zygote`. The defaults are those of a server's child.
public struct ChildOptions: Sendable {
    /// How the processes that the child starts are kept together. Nil: `.session` for programs and workers, `.group`
    /// for others.
    public var containment: Containment?
    /// Whether the kernel kills the child when the thread that forked it ends, by SIGKILL too. PR_SET_PDEATHSIG in
    /// prctl(2).
    ///
    /// A child that changes its user or group itself, or executes a set-user-ID program, loses this, unless its
    /// `containment` is `.descendants`: then a separate process, which outlives this one, kills it. A child with
    /// `credentials` keeps it.
    public var diesWithParent = true
    /// How long the child may live; then it gets SIGTERM, and `killTimeout` later SIGKILL, each with its process group.
    /// Nil: no limit.
    public var timeout: Duration?
    /// The time from SIGTERM to SIGKILL, after the child's own timeout and when its server stops.
    public var killTimeout: Duration = .seconds(3)
    /// Whether a crash of the child may run Swift's backtrace, which can take a minute of full CPU and a gigabyte of
    /// memory, with the client still connected. If false, a crash ends the child at once.
    public var printsCrashBacktrace = false
    /// Whether to fork although this process has more than one thread. The child must then call only C functions that
    /// are async-signal-safe (signal-safety(7)): everything else can hang on a lock that another thread held. See
    /// docs/FORK_SAFETY.md.
    public var allowsThreads = false

    /// The user and groups of the child; nil: its parent's. setresuid(2), setresgid(2), setgroups(2).
    ///
    /// A child that cannot take on its credentials, score or limits exits with status 126; it serves no client and
    /// executes no program. A server tries this in a child of its own before it serves.
    public var credentials: Credentials?
    /// How soon the kernel kills the child when memory is short, from -1000, never, to 1000, first; nil: as its parent.
    /// A value below its parent's requires root. oom_score_adj in proc(5).
    public var oomScore: Int?
    /// The child's resource limits.
    public var limits = ResourceLimits()

    /// Signals that the child ignores until its body takes them, because they are meant for its parent.
    var heedless: SignalSet = []

    /// Creates options with the defaults.
    public init() {}

    func check() throws(ForkingError) {
        try requirePositive("timeout", timeout)
        try requireNotNegative("killTimeout", killTimeout)
        if let oomScore, !(-1000...1000).contains(oomScore) {
            throw .invalid("oomScore is \(oomScore), and must be from -1000 to 1000")
        }
        try limits.check()
    }

    /// The C form of what confines a child, except for its credentials: see `Credentials.withC`.
    var confinement: forkcore_confinement {
        forkcore_confinement(
            credentials: nil, sets_oom_score: oomScore != nil, oom_score: Int32(clamping: oomScore ?? 0),
            limits: limits.inC)
    }

    /// Throws if a child cannot be confined as requested. Parent: tries it in a child.
    func tryConfinement() throws(ForkingError) {
        guard credentials != nil || oomScore != nil || limits != ResourceLimits() else { return }
        var call: UnsafePointer<CChar>?
        var confinement = confinement
        let code =
            credentials?.withC {
                confinement.credentials = $0
                return forkcore_try_confinement(&confinement, &call)
            } ?? forkcore_try_confinement(&confinement, &call)
        guard code != 0 else { return }
        let error = ForkingError.system(call: call.map { String(cString: $0) } ?? "clone", Errno(rawValue: code))
        guard code == EPERM || code == EACCES, credentials != nil || oomScore != nil else { throw error }
        throw .invalid("credentials or oomScore cannot be set, which takes root: \(error)")
    }
}

/// A live child, as its table records it. It is copied bitwise: see `ChildSlots`.
struct Child: BitwiseCopyable {
    /// running → terminating (SIGTERM was sent) → killed (SIGKILL was sent)
    enum Stage { case running, terminating, killed }
    /// Whether the child has ended and cannot be reaped: not known to → seen once → reported.
    enum Hold { case none, seen, told }

    /// 0 in a slot that is only reserved.
    let pid: ProcessID
    var peer: SocketAddress?
    var startedAt: Instant
    let hasGroup: Bool
    /// -1 in a table that reaps by signal.
    let pidfd: Int32
    var stage = Stage.running
    var hold = Hold.none
    /// Whether it was sent SIGKILL, by a stage or by a caller.
    var isKilled = false
    /// Whether it may not be signalled (EPERM), and that was reported.
    var isBeyondUs = false
    var reason = ChildExit.Reason.own
    /// The deadline of its next stage: its timeout, then the kill.
    var deadline: Instant?
    let killTimeout: Duration
    /// Whether a child left it behind; no table has forked it.
    var isLeftover = false
    /// What its owner knows it by: a zygote the channel of the call that it serves, a server its
    /// client's account (`SourceAdmission.Account`). Or -1.
    var tag: Int32 = -1

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

/// A live child, as users see it.
public struct ChildInfo: Sendable {
    /// Its pid, valid while the child is in the table.
    public let pid: ProcessID
    /// The client that it serves, if it was forked with a peer.
    public let peer: SocketAddress?
    /// The time since it was forked.
    public let age: Duration
    /// Whether it was told to end, by its timeout or because its table stops.
    public let isEnding: Bool
    /// Whether it is a leftover: a process that a child left behind. See `Containment.descendants`.
    public let isLeftover: Bool
}

extension ChildTable {
    /// The live children, oldest first. Parent.
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
