// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Forking
import Glibc

/// This library's.
final class TableMethod: ReapMethod {
    static let name = "table"

    private let table: ChildTable
    private var reaped = 0

    init(limit: Int) throws {
        table = try ChildTable(limit: limit)
        table.onExit = { [unowned self] _ in reaped += 1 }
    }

    func fork(_ body: () -> Int32) throws { try table.fork(body) }

    func waitForEnd() throws {
        var polled = pollfd(fd: table.descriptor.rawValue, events: Int16(POLLIN), revents: 0)
        while poll(&polled, 1, -1) < 0 {
            guard errno == EINTR else { throw Shortage(call: "poll") }
        }
    }

    func reap() -> Int {
        reaped = 0
        table.collect()
        return reaped
    }

    func waitForAll() throws { _ = try table.wait() }
}

/// The seed's: after each end, one waitpid(2) for every live child, as in Python's `ForkingMixIn.collect_children`.
final class SweepMethod: ReapMethod {
    static let name = "sweep"

    private var live: [pid_t] = []
    private let wasBlocked: Bool
    private var childSignal = sigset_t()

    init(limit: Int) throws {
        live.reserveCapacity(limit)
        sigemptyset(&childSignal)
        sigaddset(&childSignal, SIGCHLD)
        var before = sigset_t()
        pthread_sigmask(SIG_BLOCK, &childSignal, &before)
        wasBlocked = sigismember(&before, SIGCHLD) == 1
        guard forkcore_keep_zombies() == 0 else { throw Shortage("something in this process handles SIGCHLD") }
    }

    deinit {
        if !wasBlocked { pthread_sigmask(SIG_UNBLOCK, &childSignal, nil) }
    }

    func fork(_ body: () -> Int32) throws {
        // What ChildTable asks for, so that this fork costs what its does.
        var plan = forkcore_child_plan(
            unblock: Self.bit(SIGCHLD), defaults: forkcore_signals_handled(Self.crashes), closing: nil,
            closing_count: 0, own_group: true, dies_with_parent: true)
        var pid: pid_t = 0
        let code = withoutActuallyEscaping(body) { body in
            var body = body
            return withUnsafeMutablePointer(to: &body) { context in
                forkcore_fork(
                    &plan, { $0!.assumingMemoryBound(to: (() -> Int32).self).pointee() }, context, &pid)
            }
        }
        guard code == 0 else { throw Shortage("fork: \(String(cString: strerror(code)))") }
        live.append(pid)
    }

    func waitForEnd() throws {
        while sigwaitinfo(&childSignal, nil) < 0 {
            guard errno == EINTR else { throw Shortage(call: "sigwaitinfo") }
        }
    }

    func reap() -> Int {
        let before = live.count
        live.removeAll { pid in
            var status: Int32 = 0
            return waitpid(pid, &status, WNOHANG) == pid
        }
        return before - live.count
    }

    func waitForAll() throws {
        for pid in live {
            while waitpid(pid, nil, 0) < 0 {
                guard errno == EINTR else { throw Shortage(call: "waitpid") }
            }
        }
        live = []
    }

    private static func bit(_ signal: Int32) -> UInt64 { 1 << UInt64(signal - 1) }

    private static let crashes = [SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE, SIGSEGV, SIGQUIT].reduce(bit(SIGCHLD)) {
        $0 | bit($1)
    }
}
