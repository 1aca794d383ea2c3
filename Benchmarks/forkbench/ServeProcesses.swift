// SPDX-License-Identifier: Apache-2.0
//
// Processes: starting them, and what /proc says about them.

import CForkbench
import Glibc

/// A signal has come, and all that was started is to be ended.
struct Interruption: Error {
    let signal: Int32

    static func check() throws {
        let signal = forkbench_signal()
        if signal != 0 { throw Interruption(signal: signal) }
    }

    /// Returns early, by throwing, when a signal comes.
    static func sleep(milliseconds: Int) throws {
        usleep(UInt32(milliseconds) * 1000)
        try check()
    }
}

/// From now on signals end what was started, and none of it outlives this process.
func prepareToStartPrograms() throws {
    for (name, code) in [
        ("sigaction", forkbench_remember_signals()), ("prctl", forkbench_adopt_orphans()),
    ] where code != 0 {
        throw Shortage(name, code)
    }
}

/// A program that runs until it ends, and what it printed.
enum Command {
    static func run(_ arguments: [String]) throws -> (status: Int32, output: String, errors: String) {
        let output = try MemoryFile(), errors = try MemoryFile()
        let pid = try spawn(arguments, output: output.descriptor, errors: errors.descriptor)
        var status: Int32 = 0
        while waitpid(pid, &status, 0) < 0 {
            try Interruption.check()
            guard errno == EINTR else { throw Shortage(call: "waitpid") }
        }
        return (status, output.text, errors.text)
    }
}

/// The child is in a process group of its own, and dies with this process.
func spawn(_ arguments: [String], output: Int32, errors: Int32) throws -> pid_t {
    var copies = arguments.map { strdup($0) } + [nil]
    defer { copies.forEach { free($0) } }
    var pid: pid_t = 0
    let code = forkbench_spawn(&copies, output, errors, &pid)
    guard code == 0 else { throw Shortage("\(arguments[0]) cannot be started", code) }
    return pid
}

/// What a program that `spawn` started prints first, without its newline. Waits so many seconds.
///
/// - Parameters:
///   - late: what is said of it if nothing comes.
///   - ended: what is said of it if it ends before.
func firstLine(
    on output: Int32, within limit: Double, late: @autoclosure () -> String, ended: @autoclosure () -> String
) throws -> Substring {
    var line = ""
    let begun = nanoseconds()
    while !line.contains("\n") {
        try Interruption.check()
        guard seconds(since: begun) < limit else { throw ServerFailure(description: late()) }
        var polled = pollfd(fd: output, events: Int16(POLLIN), revents: 0)
        guard poll(&polled, 1, 100) > 0 else { continue }
        var bytes = [UInt8](repeating: 0, count: 256)
        let count = read(output, &bytes, bytes.count)
        guard count > 0 else { throw ServerFailure(description: ended()) }
        line += String(decoding: bytes.prefix(count), as: UTF8.self)
    }
    return line.prefix { $0 != "\n" }
}

/// Ends what `spawn` started, first as one stops a server; then whatever is left of it.
func endProgram(_ pid: pid_t) {
    func hasEnded() -> Bool {
        var information = siginfo_t()
        let code = waitid(P_PID, id_t(pid), &information, WEXITED | WNOHANG | WNOWAIT)
        return code == 0 && information.si_signo == SIGCHLD
    }
    kill(-pid, SIGTERM)
    let begun = nanoseconds()
    while !hasEnded() {
        usleep(2000)
        if seconds(since: begun) > 2 { kill(-pid, SIGKILL) }
    }
    // While it is a zombie, its number is nobody else's, nor is its group's.
    kill(-pid, SIGKILL)
    waitpid(pid, nil, 0)
    // Its orphans have become ours (PR_SET_CHILD_SUBREAPER), those in groups of their own too.
    for _ in 0..<100 {
        let orphans = ProcessStatus.children(of: getpid())
        if orphans.isEmpty { return }
        for orphan in orphans { kill(orphan.pid, SIGKILL) }
        for orphan in orphans { waitpid(orphan.pid, nil, 0) }
    }
}

/// A file without a name. Whoever writes to it never has to wait, as for a pipe that nobody reads.
final class MemoryFile {
    let descriptor: Int32

    init() throws {
        var descriptor: Int32 = -1
        let code = forkbench_memory_file(&descriptor)
        guard code == 0 else { throw Shortage("memfd_create", code) }
        self.descriptor = descriptor
    }

    deinit { close(descriptor) }

    /// Its first lines, to be put behind a message about the program that wrote them to its stderr.
    var quoted: String {
        let lines = text.split(separator: "\n")
        return lines.isEmpty ? "" : "; its stderr: " + lines.prefix(5).joined(separator: " / ")
    }

    /// The first 8 KiB.
    var text: String {
        var bytes = [UInt8](repeating: 0, count: 8192)
        let count = pread(descriptor, &bytes, bytes.count, 0)
        return String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
    }
}

/// What /proc says of a process.
struct ProcessStatus {
    let parent: pid_t
    let state: Character
    /// Ticks of its own, and of the children that it has reaped.
    let ticks: Int

    static let ticksPerSecond = sysconf(Int32(_SC_CLK_TCK))

    /// - Returns: nil if there is no such process any more.
    init?(_ pid: pid_t) {
        guard let text = KernelFile.text("/proc/\(pid)/stat"), let name = text.lastIndex(of: ")") else { return nil }
        // proc_pid_stat(5) counts from 1; the third field, the state, is the first here.
        let fields = text[text.index(after: name)...].split(separator: " ")
        guard fields.count > 14, let parent = pid_t(fields[1]) else { return nil }
        self.parent = parent
        state = fields[0].first ?? "?"
        ticks = fields[11...14].reduce(0) { $0 + (Int($1) ?? 0) }
    }

    /// All children of a process, zombies included. Not every kernel has /proc/PID/task/TID/children.
    static func children(of parent: pid_t) -> [(pid: pid_t, state: Character)] {
        processes().compactMap { pid in
            guard let status = ProcessStatus(pid), status.parent == parent else { return nil }
            return (pid, status.state)
        }
    }

    static func processes() -> [pid_t] {
        guard let entries = opendir("/proc") else { return [] }
        defer { closedir(entries) }
        var found: [pid_t] = []
        while let entry = readdir(entries) {
            let pid = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { atoi($0) }
            }
            if pid > 0 { found.append(pid) }
        }
        return found
    }
}

/// What a process occupies, in KiB.
struct ProcessMemory {
    /// What it shares with nobody.
    let privateDirty: Double
    /// The same, and its share of what it shares.
    let proportional: Double

    init?(_ pid: pid_t) {
        guard let text = KernelFile.text("/proc/\(pid)/smaps_rollup") else { return nil }
        func value(_ name: String) -> Double? {
            let line = text.split(separator: "\n").first { $0.hasPrefix(name + ":") }
            return line?.split(separator: " ").dropFirst().first.flatMap { Double($0) }
        }
        guard let privateDirty = value("Private_Dirty"), let proportional = value("Pss") else { return nil }
        self.privateDirty = privateDirty
        self.proportional = proportional
    }
}
