// SPDX-License-Identifier: Apache-2.0
//
// Two processes of an upgrade: the go-between, which is a child of the old program, and its own child, which becomes
// the new program.

import CForkCore
import Glibc
import SystemPackage

/// The process between the old program and the new one while the new one starts.
enum GoBetween {
    /// Go-between: starts the new program and sends its process ID and pidfd to the old one. Returns the new program's
    /// exit status when it ends, or 0 when `lead` reaches end of file.
    static func stand(for handover: Handover, _ executable: Executable, until lead: Int32) -> Int32 {
        var started: ChildTable?
        do throws(ForkingError) {
            let table = try ChildTable(maxChildren: 1, reaping: .pidfd)
            started = table
            var end: ChildExit?
            table.onExit = { end = $0 }
            var options = ChildOptions()
            options.diesWithParent = false
            options.containment = Containment.none
            var pid = try table.fork(options: options) { handover.execute(executable) }
            var pidfd: Int32 = -1
            try check(forkcore_pidfd(pid, &pidfd), "pidfd_open")
            try check(forkcore_hand_over(handover.readinessSocket, pidfd, &pid, MemoryLayout<Int32>.size), "sendmsg")
            // Close this copy, so that the old program sees end of file when the new program closes its own.
            forkcore_close(handover.readinessSocket)
            while end == nil {
                let ready = try waitUntilReadable([lead, table.descriptor.rawValue])
                if ready & 1 != 0 { return 0 }
                table.collect()
            }
            return endLike(end!.status)
        } catch {
            Lines.tell("upgrade: \(error)")
            started?.killAll()
            return 127
        }
    }

    private static func endLike(_ status: ExitStatus) -> Int32 {
        switch status {
        case .exited(let code): return code
        case .signaled(let signal, _):
            // The new program has dumped core already, if it was configured to.
            var none = rlimit(rlim_cur: 0, rlim_max: 0)
            setrlimit(__rlimit_resource_t(RLIMIT_CORE.rawValue), &none)
            signal_default(signal.rawValue)
            raise(signal.rawValue)
            return 127
        case .unknown: return 127
        }
    }

    private static func signal_default(_ number: Int32) { _ = Glibc.signal(number, SIG_DFL) }
}

extension Handover {
    /// Go-between's child: becomes the new program. Returns an exit status if that fails.
    func execute(_ executable: Executable) -> Int32 {
        let all = sockets.map(\.descriptor) + [readinessSocket] + (control.map { [$0] } ?? [])
        // First move all descriptors above the target numbers, so that no dup2 closes one of them.
        let above = Self.first + Int32(all.count)
        let moved = all.map { fcntl($0, F_DUPFD_CLOEXEC, above) }
        for (index, descriptor) in moved.enumerated() {
            let code = failure(of: dup2(descriptor, Self.first + Int32(index)))
            if code != 0 { return complain("a socket cannot be handed over: \(Errno(rawValue: code))") }
        }
        setenv("LISTEN_PID", "\(getpid())", 1)
        setenv("LISTEN_FDS", "\(sockets.count)", 1)
        setenv("LISTEN_FDNAMES", sockets.map { Self.name(of: $0.origin) }.joined(separator: ":"), 1)
        let readinessNumber = Self.first + Int32(sockets.count),
            controlNumber = control.map { _ in readinessNumber + 1 } ?? -1
        let terms = Terms(
            readinessSocket: readinessNumber, control: controlNumber, flags: sockets.map { Self.flag(of: $0.origin) })
        Self.inheritance.leave(terms.text)
        for text in variables {
            let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
            setenv(parts[0], parts[1], 1)
        }
        let code = executable.arguments.withVector { failure(of: execv(executable.path, $0)) }
        return complain("\(FilePath(platformString: executable.path)) cannot be executed: \(Errno(rawValue: code))")
    }

    private func complain(_ text: String) -> Int32 {
        Lines.tell("upgrade: \(text)")
        return 127
    }
}
