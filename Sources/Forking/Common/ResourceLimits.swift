// SPDX-License-Identifier: Apache-2.0
//
// Any process makes them; children take them on, in C.

import CForkCore

/// What a child may use. Nil or false: as much as its parent. setrlimit(2), prctl(2), seccomp(2), landlock(7).
///
/// A child takes its limits on after its credentials and before its body, or before it executes its program. A limit
/// never gives more than the parent has.
public struct ResourceLimits: Hashable, Sendable {
    /// Seconds of CPU time, of all its threads; then it gets SIGXCPU, and a second later SIGKILL. RLIMIT_CPU
    public var maxCPUSeconds: Int?
    /// Bytes of address space besides what is mapped when it starts; for a program, all that it maps. RLIMIT_AS
    ///
    /// An allocation that goes beyond traps: the child ends by SIGABRT or SIGILL. A thread takes 8 MiB for its stack.
    /// Where Tasks run, there must be at least `minAsyncMemoryBytes`.
    public var maxMemoryBytes: Int?
    /// The child's descriptors have numbers below this. Where Tasks run, at least `minAsyncOpenFiles`. RLIMIT_NOFILE
    public var maxOpenFiles: Int?
    /// No program that it executes gets more rights than it has. PR_SET_NO_NEW_PRIVS
    public var deniesNewPrivileges = false
    /// It can make no sockets but Unix ones (EACCES), and listen on none. TCP sockets that it was given go on working,
    /// and cannot be connected to anybody else; UDP ones can, so give it none. Implies `deniesNewPrivileges`.
    ///
    /// This takes no rights, unlike a network namespace, and microseconds. Where Landlock has no rules for TCP (before
    /// Linux 6.7), connect(2) fails for Unix sockets too.
    public var deniesNetwork = false

    /// The least memory that Swift's concurrency works with: its threads' stacks. Each Task that runs at the same time
    /// as others takes 8 MiB more; a child without them may hang.
    public static let minAsyncMemoryBytes = 32 << 20
    /// The least open files that it works with: the standard ones, a call's channel, and Dispatch's own.
    public static let minAsyncOpenFiles = 8

    /// No limits.
    public init() {}
}

extension ResourceLimits {
    func check() throws(ForkingError) {
        try requireAtLeast1("maxCPUSeconds", maxCPUSeconds)
        try requireAtLeast1("maxMemoryBytes", maxMemoryBytes)
        try requireAtLeast1("maxOpenFiles", maxOpenFiles)
    }

    var inC: forkcore_limits {
        forkcore_limits(
            cpu_seconds: UInt64(maxCPUSeconds ?? 0), memory: UInt64(maxMemoryBytes ?? 0),
            open_files: UInt64(maxOpenFiles ?? 0), memory_is_all: false, no_new_privileges: deniesNewPrivileges,
            no_network: deniesNetwork)
    }
}

// MARK: What a value must be, for all configurations and options

/// Throws unless `time` is positive, or nil.
func requirePositive(_ name: StaticString, _ time: Duration?) throws(ForkingError) {
    guard let time, time <= .zero else { return }
    throw .invalid("\(name) is \(time), and must be positive, or nil for none")
}

/// Throws if `time` is negative.
func requireNotNegative(_ name: StaticString, _ time: Duration?) throws(ForkingError) {
    guard let time, time < .zero else { return }
    throw .invalid("\(name) is \(time), and cannot be negative")
}

/// Throws unless `count` is 1 or more, or nil.
func requireAtLeast1(_ name: StaticString, _ count: Int?) throws(ForkingError) {
    guard let count, count < 1 else { return }
    throw .invalid("\(name) is \(count), and must be at least 1, or nil for none")
}
