// SPDX-License-Identifier: Apache-2.0

/// How a child is set up and bounded. The defaults are those of a server's child.
public struct ChildOptions: Sendable {
    /// The child leads a process group of its own, so that it can be stopped with all that it started. setpgid(2).
    public var ownGroup = true
    /// The kernel kills the child when the thread that forked it ends, be it by SIGKILL. PR_SET_PDEATHSIG in prctl(2).
    ///
    /// A program that changes its credentials as it is executed (set-user-ID) loses this.
    public var diesWithParent = true
    /// How long the child may live; then it gets SIGTERM, and `killAfter` later SIGKILL. Nil: as long as it likes.
    public var timeLimit: Duration?
    /// From SIGTERM to SIGKILL.
    public var killAfter: Duration = .seconds(3)
    /// Whether a crash of the child may run Swift's backtrace, which can take a minute of full CPU and a gigabyte of
    /// memory, with the client still connected. Off, a crash ends the child at once.
    public var crashBacktraces = false
    /// Fork although this process has more than one thread. The child must then do nothing but call C functions that are
    /// async-signal-safe: everything else can hang on a lock that another thread held. See docs/FORK_SAFETY.md.
    public var allowsThreads = false
    /// A descriptor of the server's that this child is to have.
    var keeps: Int32?

    /// The defaults, as said at each property.
    public init() {}

    func checked() throws(ForkingError) -> ChildOptions {
        if let timeLimit, timeLimit <= .zero {
            throw .invalid("a time limit of \(timeLimit) cannot be: it must be positive, or nil for none")
        }
        guard killAfter >= .zero else { throw .invalid("killAfter is \(killAfter), and cannot be negative") }
        return self
    }
}

/// A live child, as its table knows it.
struct Child {
    /// running → terminating (SIGTERM was sent) → killed (SIGKILL was sent)
    enum Stage { case running, terminating, killed }

    let pid: ProcessID
    let peer: SocketAddress?
    let startedAt: Instant
    let hasGroup: Bool
    /// In a table that works with pidfds.
    let pidfd: Int32?
    var stage = Stage.running
    var reason = ChildExit.Reason.own
    /// When its next stage comes: the time limit, then the kill.
    var deadline: Instant?
    var killAfter: Duration
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
}
