// SPDX-License-Identifier: Apache-2.0

import CForkbench
import Glibc

/// Where idle children wait, in read(2), until the parent closes the other end of the pipe. It needs no signal, no list
/// of them, and opens by itself when the parent dies, however it does.
final class Gate {
    private var ends = forkbench_gate(ready_read: -1, ready_write: -1, gate_read: -1, gate_write: -1)
    private var isOpen = false

    init() throws {
        (ends.ready_read, ends.ready_write) = try makePipe()
        (ends.gate_read, ends.gate_write) = try makePipe()
    }

    deinit {
        open()
        for descriptor in [ends.ready_read, ends.ready_write] where descriptor >= 0 { close(descriptor) }
    }

    /// The barest idle child there is.
    func forkIdle() throws -> pid_t {
        var child: pid_t = 0
        try check("fork", forkbench_fork_idle(&ends, &child))
        return child
    }

    /// Child: what an idle one does.
    func waitInChild() { forkbench_idle(&ends) }

    /// Waits until so many children have said that they run.
    func waitUntilReady(_ count: Int) throws {
        close(ends.ready_write)  // so that the end of all writers shows
        ends.ready_write = -1
        var bytes = [UInt8](repeating: 0, count: 4096)
        var left = count
        while left > 0 {
            let got = read(ends.ready_read, &bytes, min(left, bytes.count))
            if got < 0, errno != EINTR { throw Shortage(call: "read") }
            guard got != 0 else { throw Shortage("\(left) idle children have died at once: somebody killed them") }
            left -= max(got, 0)
        }
    }

    /// Lets all go.
    func open() {
        guard !isOpen else { return }
        isOpen = true
        close(ends.gate_read)
        close(ends.gate_write)
    }

    private func makePipe() throws -> (read: Int32, write: Int32) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw Shortage(call: "pipe") }
        return (ends[0], ends[1])
    }
}

/// Children of a method that do nothing but live.
final class IdleChildren {
    private let gate: Gate

    /// Returns when all of them run. They are not at rest yet: see `Rest`.
    init(_ count: Int, of method: any ReapMethod) throws {
        gate = try Gate()
        for number in 0..<count {
            do {
                try method.forkIdle(gate)
            } catch {
                gate.open()
                try? method.waitForAll()
                throw Shortage(
                    "only \(number) of \(count) idle children could be made: \(error); \(Limits.description)")
            }
        }
        try gate.waitUntilReady(count)
    }

    func release() { gate.open() }
}
