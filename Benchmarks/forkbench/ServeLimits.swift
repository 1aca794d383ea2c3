// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Whether the machine has what so many children need, before they are forked.
enum ServeLimits {
    /// - Returns: what is lacking, and how much of it would be needed; nil if there is enough.
    static func lack(live: Int, clients: Int, childKiB: Int) -> String? {
        let children = live + clients + 64
        do {
            try Limits.provide(children: children, descriptors: children)
        } catch {
            return "\(error)"
        }
        if let most = number(in: "/proc/sys/kernel/pid_max") {
            // Numbers are used again late: a good part of them must be free.
            let needed = children * 5 / 4 + ProcessStatus.processes().count
            if needed > most { return "this needs \(needed) process numbers, and kernel.pid_max is \(most)" }
        }
        if let most = controlGroupLimit(), children > most {
            return "this needs \(children) processes, and the control group has \(most) (pids.max)"
        }
        if let most = number(in: "/proc/sys/net/core/somaxconn"), clients >= most {
            return "this needs a queue of \(clients + 1) connections, and net.core.somaxconn is \(most)"
        }
        let needed = children * childKiB
        if let available = availableKiB(), needed > available {
            return "this needs about \(needed / 1024) MiB, and \(available / 1024) are available (MemAvailable)"
        }
        return nil
    }

    private static func number(in path: String) -> Int? {
        readFile(path).flatMap { Int($0.prefix { $0.isNumber }) }
    }

    private static func controlGroupLimit() -> Int? {
        guard let line = readFile("/proc/self/cgroup")?.split(separator: "\n").first(where: { $0.hasPrefix("0::") })
        else { return nil }
        return number(in: "/sys/fs/cgroup\(line.dropFirst(3))/pids.max")
    }

    private static func availableKiB() -> Int? {
        let line = readFile("/proc/meminfo")?.split(separator: "\n").first { $0.hasPrefix("MemAvailable:") }
        return line?.split(separator: " ").dropFirst().first.flatMap { Int($0) }
    }
}

/// A file of /proc, whole; nil if there is none, or it has gone.
func readFile(_ path: String) -> String? {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return nil }
    defer { close(descriptor) }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 4096)
    while true {
        let count = read(descriptor, &chunk, chunk.count)
        if count < 0, errno == EINTR { continue }
        if count < 0 { return nil }
        if count == 0 { return String(decoding: bytes, as: UTF8.self) }
        bytes += chunk.prefix(count)
    }
}
