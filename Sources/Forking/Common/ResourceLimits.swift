// SPDX-License-Identifier: Apache-2.0
//
// Any process creates them; children apply them, in C.

import CForkCore

/// Limits on what a child may use. Nil or false means as much as its parent. setrlimit(2), prctl(2), seccomp(2),
/// landlock(7).
///
/// A child applies its limits after its credentials, and before its body or its program runs. A limit never gives more
/// than the parent has.
public struct ResourceLimits: Hashable, Sendable {
    /// The maximum CPU time of all threads, in seconds. Then the child gets SIGXCPU, and a second later SIGKILL.
    /// RLIMIT_CPU
    public var maxCPUSeconds: Int?
    /// The maximum address space in bytes, in addition to what is mapped when the child starts; for a program, in
    /// total. RLIMIT_AS
    ///
    /// An allocation beyond the limit traps: the child ends by SIGABRT or SIGILL. A thread needs 8 MiB for its stack. A
    /// child that runs Tasks needs at least `minAsyncMemoryBytes`, except in an `async` handler of a zygote's.
    public var maxMemoryBytes: Int?
    /// The child's descriptors must have numbers below this. A child that runs Tasks needs `minAsyncOpenFiles`, except in
    /// an `async` handler of a zygote's. RLIMIT_NOFILE
    public var maxOpenFiles: Int?
    /// Programs that the child executes get no more privileges than it has. PR_SET_NO_NEW_PRIVS
    public var deniesNewPrivileges = false
    /// The child can create only Unix sockets (EACCES otherwise), and cannot listen. TCP sockets that it was given
    /// continue to work, and cannot be connected to another peer; UDP sockets can, so do not pass any. Implies
    /// `deniesNewPrivileges`.
    ///
    /// Unlike a network namespace, this needs no privileges, and takes microseconds. On kernels whose Landlock has no
    /// TCP rules (before Linux 6.7), connect(2) fails for Unix sockets too.
    public var deniesNetwork = false

    /// The minimum memory for Swift Concurrency's pool of threads, which needs it for their stacks. Each additional Task that runs
    /// in parallel needs 8 MiB more; without them a child may hang.
    public static let minAsyncMemoryBytes = 32 << 20
    /// The minimum number of open files for Swift Concurrency's pool of threads: the standard ones, a call's channel, and Dispatch's own.
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
