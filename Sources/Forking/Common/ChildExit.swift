// SPDX-License-Identifier: Apache-2.0

import CForkCore
public import SystemPackage

/// A process's number, as the kernel gives it.
public typealias ProcessID = Int32

/// How a process ended, as wait(2) tells it.
public enum ExitStatus: Hashable, Sendable {
    /// By `_exit`, with this status; 0 is success.
    case exited(code: Int32)
    /// By a signal: a trap in Swift is SIGILL on x86-64 and SIGTRAP on arm64.
    case signaled(Signal, dumpedCore: Bool)
    /// Somebody else in this process waited for it first (waitpid(-1), or SIGCHLD set to be ignored).
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
        case .unknown: "ended, and its exit status is unknown, as other code in this process waited for it"
        }
    }
}

/// What a process and the children that it waited for have used. getrusage(2).
public struct ResourceUsage: Hashable, Sendable {
    /// CPU time in user mode.
    public let userTime: Duration
    /// CPU time in the kernel.
    public let systemTime: Duration
    /// The most memory it ever had in use, in KiB; pages shared with its parent count.
    public let maxResidentKiB: Int64
    /// Page faults served without reading from a disk.
    public let minorFaults: Int64
    /// Page faults that had to read from a disk.
    public let majorFaults: Int64
}

/// A child has ended and was reaped.
public struct ChildExit: Sendable {
    /// Who brought the end about.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Reason: Hashable, Sendable, BitwiseCopyable {
        /// The child, or somebody else's signal.
        case own
        /// Its table: its time limit had passed.
        case timeout
        /// Its table: it was asked to terminate or to kill.
        case stopped
    }

    /// Its number, which another process may have by now.
    public let pid: ProcessID
    /// Whom it served, if it was forked with a peer.
    public let peer: SocketAddress?
    /// How it ended.
    public let status: ExitStatus
    /// Who brought that about.
    public let reason: Reason
    /// From fork to reaping.
    public let duration: Duration
    /// Whether it was not the child itself, but what one had left behind. See `Containment.descendants`.
    public let isLeftover: Bool
    /// Nil when the status is unknown.
    public let usage: ResourceUsage?
    /// Why the program that it was to be could not be executed. execve(2).
    public let execError: Errno?
    /// Of a zygote's child, its call's.
    var channel: Int32 = -1

    /// Whether it ended with status 0 and nobody had to help.
    public var isSuccess: Bool { status.isSuccess && reason == .own }
}

extension ChildExit: CustomStringConvertible {
    /// `child 4711, peer 127.0.0.1:50000: killed by SIGILL after 0.012 s`
    public var description: String { told(of: "child") }

    /// - Parameter number: of whom it is told; nil: the child's own.
    func told(of kind: String, as number: ProcessID? = nil) -> String {
        let pid = number ?? pid
        let whom = peer.map { ", peer \($0)" } ?? ""
        let why =
            switch reason {
            case .own: ""
            case .timeout: " at its time limit"
            case .stopped: " as the server stops"
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
