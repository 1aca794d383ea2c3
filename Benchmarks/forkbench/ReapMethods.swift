// SPDX-License-Identifier: Apache-2.0
//
// The ways to fork and reap that are compared. A new one goes into `ReapMethods.all`.

import CForkbench
import Forking
import Glibc
import SystemPackage

protocol ReapMethod: AnyObject, SendableMetatype {
    static var name: String { get }
    /// Besides what every method needs.
    static var descriptorsPerChild: Int { get }

    /// - Parameter limit: how many children there will be at once.
    init(limit: Int) throws
    /// Forks a child that ends at once.
    func fork() throws
    /// Forks a child that waits at `gate`.
    func forkIdle(_ gate: Gate) throws
    /// Returns when a child may have ended.
    func waitForEnd() throws
    /// Collects what has ended; returns how many that were.
    func reap() throws -> Int
    /// Waits for all children. Not measured.
    func waitForAll() throws
}

extension ReapMethod {
    static var descriptorsPerChild: Int { 0 }
}

enum ReapMethods {
    static let all: [any ReapMethod.Type] = [
        TableMethod.self, SweepMethod.self, WaitpidAnyMethod.self, PidfdMethod.self, KernelMethod.self,
    ]
}

/// This library's.
final class TableMethod: ReapMethod {
    static let name = "table"

    private let table: ChildTable

    init(limit: Int) throws { table = try ChildTable(maxChildren: limit) }

    func fork() throws { try table.fork { 0 } }

    func forkIdle(_ gate: Gate) throws {
        try table.fork {
            gate.waitInChild()
            return 0
        }
    }

    func waitForEnd() throws {
        var polled = pollfd(fd: table.descriptor.rawValue, events: Int16(POLLIN), revents: 0)
        while poll(&polled, 1, -1) < 0 {
            guard errno == EINTR else { throw Shortage(call: "poll") }
        }
    }

    /// Counted by the table's own number: what is not to be measured is a counter here, for which each cycle would copy
    /// a page.
    func reap() -> Int {
        let before = table.count
        table.collect()
        return before - table.count
    }

    func waitForAll() throws { _ = try table.wait() }
}

/// The seed's: after each SIGCHLD, one waitpid(2) for every live child, as in Python's `ForkingMixIn.collect_children`.
final class SweepMethod: ReapMethod {
    static let name = "sweep"

    private var live: [pid_t] = []
    private let ends: ChildSignal

    init(limit: Int) throws {
        ends = try ChildSignal()
        live.reserveCapacity(limit)
    }

    func fork() throws { try live.append(forkedChild { forkbench_fork(&$0) }) }
    func forkIdle(_ gate: Gate) throws { try live.append(gate.forkIdle()) }
    func waitForEnd() throws { try ends.wait() }

    func reap() throws -> Int {
        let before = live.count
        var left = before
        try check("waitpid", live.withUnsafeMutableBufferPointer { forkbench_reap_by_name($0.baseAddress, &left) })
        live.removeLast(before - left)
        return before - left
    }

    func waitForAll() throws {
        try check("waitpid", forkbench_wait_for(live.count))
        live.removeAll()
    }
}

/// What nearly every server in C does: after each SIGCHLD, waitpid(-1, WNOHANG) until there is no more.
final class WaitpidAnyMethod: ReapMethod {
    static let name = "waitpid-any"

    private var count = 0
    private let ends: ChildSignal

    init(limit: Int) throws { ends = try ChildSignal() }

    func fork() throws {
        _ = try forkedChild { forkbench_fork(&$0) }
        count += 1
    }

    func forkIdle(_ gate: Gate) throws {
        _ = try gate.forkIdle()
        count += 1
    }

    func waitForEnd() throws { try ends.wait() }

    func reap() throws -> Int {
        var reaped = 0
        try check("waitpid", forkbench_reap_any(&reaped))
        count -= reaped
        return reaped
    }

    func waitForAll() throws {
        try check("waitpid", forkbench_wait_for(count))
        count = 0
    }
}

/// A pidfd per child, all in one epoll: what has ended is named, but each fork copies what is open.
final class PidfdMethod: ReapMethod {
    static let name = "pidfd"
    static let descriptorsPerChild = 1

    private var count = 0
    private var pidfds = forkbench_pidfds()

    init(limit: Int) throws {
        try check("sigaction", forkbench_let_kernel_reap(false))
        try check("epoll_create1", forkbench_pidfds_open(&pidfds))
    }

    deinit { forkbench_pidfds_close(&pidfds) }

    func fork() throws { try watch(forkedChild { forkbench_fork(&$0) }) }
    func forkIdle(_ gate: Gate) throws { try watch(gate.forkIdle()) }
    func waitForEnd() throws { try check("epoll_wait", forkbench_pidfds_wait(&pidfds)) }

    private func watch(_ child: pid_t) throws {
        count += 1
        try check("pidfd_open", forkbench_pidfds_watch(&pidfds, child))
    }

    func reap() throws -> Int {
        var reaped = 0
        try check("waitpid", forkbench_pidfds_reap(&pidfds, &reaped))
        count -= reaped
        return reaped
    }

    func waitForAll() throws {
        while count > 0 {
            try waitForEnd()
            _ = try reap()
        }
    }
}

/// The reference: nobody reaps, the kernel does it as part of each end (SA_NOCLDWAIT). What grows here with the live
/// children is the kernel's own. That a child is gone is found out by waiting for it, outside of `reap`.
final class KernelMethod: ReapMethod {
    static let name = "kernel"

    private var short: [pid_t] = []

    init(limit: Int) throws { try check("sigaction", forkbench_let_kernel_reap(true)) }

    deinit { _ = forkbench_let_kernel_reap(false) }

    func fork() throws { try short.append(forkedChild { forkbench_fork(&$0) }) }
    func forkIdle(_ gate: Gate) throws { _ = try gate.forkIdle() }

    func waitForEnd() throws {
        for child in short { try check("waitpid", forkbench_wait_until_gone(child)) }
    }

    func reap() -> Int {
        defer { short.removeAll(keepingCapacity: true) }
        return short.count
    }

    func waitForAll() throws { try check("waitpid", forkbench_wait_until_gone(-1)) }
}

/// SIGCHLD, taken by sigwaitinfo(2): no way to wait for it costs less. Children inherit that it is blocked.
final class ChildSignal {
    private var set = sigset_t()
    private let wasBlocked: Bool

    init() throws {
        sigemptyset(&set)
        sigaddset(&set, SIGCHLD)
        var before = sigset_t()
        pthread_sigmask(SIG_BLOCK, &set, &before)
        wasBlocked = sigismember(&before, SIGCHLD) == 1
        // Whoever started us may have had it ignored, and then there is nothing to wait for.
        try check("sigaction", forkbench_let_kernel_reap(false))
    }

    deinit {
        if !wasBlocked { pthread_sigmask(SIG_UNBLOCK, &set, nil) }
    }

    func wait() throws {
        while sigwaitinfo(&set, nil) < 0 {
            guard errno == EINTR else { throw Shortage(call: "sigwaitinfo") }
        }
    }
}

private func forkedChild(_ fork: (inout pid_t) -> Int32) throws -> pid_t {
    var child: pid_t = 0
    try check("fork", fork(&child))
    return child
}

/// Throws what a C function returned.
func check(_ call: String, _ code: Int32) throws {
    guard code == 0 else { throw Shortage("\(call): \(String(cString: strerror(code)))") }
}
