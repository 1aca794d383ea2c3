// SPDX-License-Identifier: Apache-2.0

import CForkCore
public import SystemPackage

/// A process ID.
public typealias ProcessID = Int32

/// How a process ended, as wait(2) reports it. Any process.
public enum ExitStatus: Hashable, Sendable {
    /// It called `_exit` with this status; 0 is success.
    case exited(code: Int32)
    /// A signal ended it: a trap in Swift is SIGILL on x86-64 and SIGTRAP on arm64.
    case signaled(Signal, dumpedCore: Bool)
    /// Unknown, because other code in this process waited for it first: by waitpid(-1), or by ignoring SIGCHLD.
    case unknown

    /// Whether it ended with status 0.
    public var isSuccess: Bool { self == .exited(code: 0) }
}

extension ExitStatus: CustomStringConvertible {
    /// A phrase for people, such as `killed by SIGSEGV (core dumped)`.
    public var description: String {
        switch self {
        case .exited(let code): "exited with status \(code)"
        case .signaled(let signal, let dumpedCore): "killed by \(signal)" + (dumpedCore ? " (core dumped)" : "")
        case .unknown: "ended, and its exit status is unknown, because other code in this process waited for it"
        }
    }
}

/// The resources that a process, and the children that it waited for, have used. getrusage(2).
public struct ResourceUsage: Hashable, Sendable {
    /// CPU time in user mode.
    public let userTime: Duration
    /// CPU time in the kernel.
    public let systemTime: Duration
    /// The maximum resident set size in KiB, including pages shared with its parent.
    public let maxResidentKiB: Int64
    /// Page faults served without disk I/O.
    public let minorFaults: Int64
    /// Page faults that required disk I/O.
    public let majorFaults: Int64
}

/// The end of a child that was reaped.
public struct ChildExit: Sendable {
    /// The cause of a child's end.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Reason: Hashable, Sendable, BitwiseCopyable {
        /// The child itself, or a signal from another process.
        case own
        /// Its table, because its timeout had passed.
        case timeout
        /// Its table, because `terminate` or `kill` was called.
        case stopped
    }

    /// Its process ID, which the kernel may have reused.
    public let pid: ProcessID
    /// The client that it served, if it was forked with a peer.
    public let peer: SocketAddress?
    /// How it ended.
    public let status: ExitStatus
    /// What caused its end.
    public let reason: Reason
    /// The time from fork to reaping.
    public let duration: Duration
    /// Whether this is not the child itself, but a process that one left behind. See `Containment.descendants`.
    public let isLeftover: Bool
    /// What it used; nil if the status is unknown.
    public let usage: ResourceUsage?
    /// Why its program could not be executed; nil otherwise. execve(2).
    public let execError: Errno?
    /// See `Child.tag`.
    var tag: Int32 = -1

    /// Whether it ended with status 0, and neither a timeout nor a stop ended it.
    public var isSuccess: Bool { status.isSuccess && reason == .own }
}

extension ChildExit: CustomStringConvertible {
    /// `child 4711, peer 127.0.0.1:50000: killed by SIGILL after 0.012 s`
    public var description: String { told(of: "child") }

    /// - Parameter number: the process ID to show; nil means the child's own.
    func told(of kind: String, as number: ProcessID? = nil) -> String {
        let pid = number ?? pid
        let whom = peer.map { ", peer \($0)" } ?? ""
        let why =
            switch reason {
            case .own: ""
            case .timeout: " at its time limit"
            case .stopped: " on request"
            }
        let child = isLeftover ? "process \(pid), which a \(kind) left" : "\(kind) \(pid)"
        if let execError { return "\(child)\(whom): its program cannot be executed: \(execError)" }
        return "\(child)\(whom): \(status)\(why) after \(duration.inSeconds)"
    }
}

extension ResourceUsage {
    init(_ ending: forkcore_ending) {
        userTime = .microseconds(ending.user_us)
        systemTime = .microseconds(ending.system_us)
        maxResidentKiB = ending.max_rss_kib
        minorFaults = ending.minor_faults
        majorFaults = ending.major_faults
    }
}
