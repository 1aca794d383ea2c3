// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// The number of processor cores that this process may use, which is a pool's default number of workers.
public enum UsableCores {
    /// The number of cores that this process may run on, limited to the CPU quota of its control groups, rounded up; at
    /// least 1. sched_getaffinity(2), cgroups(7).
    ///
    /// Each call reads files in /proc and /sys, so keep the result. Limits set above a container's root group are not
    /// visible inside the container. Any process, any thread.
    public static var count: Int { count(root: "", affinity: affinity) }

    /// The same, with files below `root`.
    static func count(root: String, affinity: Int) -> Int {
        let limits = ControlGroups(root: root).cpuDirectories.compactMap { limit(in: root + $0) }
        return max(1, min(affinity, limits.min() ?? affinity))
    }

    /// The number of cores that the calling thread may run on.
    static var affinity: Int {
        var cores: UInt32 = 0
        guard forkcore_affinity(&cores) == 0 else { return max(1, sysconf(Int32(_SC_NPROCESSORS_ONLN))) }
        return Int(cores)
    }

    /// A control group's limit in whole cores; nil if it has none, or if its files are malformed.
    private static func limit(in directory: String) -> Int? {
        let both = words(directory + "/cpu.max")  // version 2: quota and period, in microseconds
        if both.count == 2 { return cores(quota: both[0], period: both[1]) }
        let quota = words(directory + "/cpu.cfs_quota_us"), period = words(directory + "/cpu.cfs_period_us")
        guard quota.count == 1, period.count == 1 else { return nil }
        return cores(quota: quota[0], period: period[0])
    }

    /// Without a limit, the quota is `max` in version 2, and -1 in version 1.
    private static func cores(quota: Substring, period: Substring) -> Int? {
        guard let quota = Int(quota), let period = Int(period), quota > 0, period > 0 else { return nil }
        return quota / period + (quota % period > 0 ? 1 : 0)
    }

    private static func words(_ path: String) -> [Substring] {
        KernelFile.lines(path).first?.split(separator: " ") ?? []
    }
}

/// This process's position in the control group hierarchies: one of version 2, one per controller of version 1, or
/// both. cgroups(7).
struct ControlGroups {
    private let memberships: [Membership]
    private let mounts: [Mount]

    init(root: String = "") {
        memberships = KernelFile.lines(root + "/proc/self/cgroup").compactMap(Membership.init)
        mounts = KernelFile.lines(root + "/proc/self/mountinfo").compactMap(Mount.init)
    }

    /// The directories of the groups that may limit this process's CPU time: its own and all visible ones above it.
    var cpuDirectories: [String] {
        memberships.flatMap { membership in
            let mounts = mounts.filter { $0.shows(membership) }
            // If no mount contains the group, as in a container that sees another's mount, the root of the mount is the
            // best guess.
            guard let mount = mounts.first(where: { membership.path.below($0.root) != nil }) ?? mounts.first else {
                return [String]()
            }
            var below = membership.path.below(mount.root) ?? []
            var directories: [String] = []
            while true {
                directories.append(([Substring(mount.point)] + below).joined(separator: "/"))
                if below.popLast() == nil { return directories }
            }
        }
    }

    /// A relevant line of /proc/self/cgroup: `0::/a/b` in version 2, `4:cpu,cpuacct:/a/b` in version 1.
    private struct Membership {
        let isNew: Bool
        let path: Path

        init?(_ line: Substring) {
            let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard parts.count == 3 else { return nil }
            isNew = parts[0] == "0" && parts[1].isEmpty
            guard isNew || parts[1].split(separator: ",").contains("cpu") else { return nil }
            path = Path(parts[2])
        }
    }

    /// A line of /proc/self/mountinfo that mounts such a hierarchy; see proc_pid_mountinfo(5):
    /// `35 24 0:30 /the/root /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw`
    private struct Mount {
        let isNew: Bool
        let root: Path
        let point: String

        init?(_ line: Substring) {
            let words = line.split(separator: " ")
            guard let dash = words.firstIndex(of: "-"), dash >= 6, words.count > dash + 2 else { return nil }
            let type = words[dash + 1], options = words[words.count - 1].split(separator: ",")
            isNew = type == "cgroup2"
            guard isNew || type == "cgroup" && options.contains("cpu") else { return nil }
            root = Path(Self.unescaped(words[3])[...])
            point = Self.unescaped(words[4])
        }

        func shows(_ membership: Membership) -> Bool { isNew == membership.isNew }

        /// Space, tab, newline and backslash are written in octal: `\040`.
        private static func unescaped(_ text: Substring) -> String {
            var bytes: [UInt8] = []
            var rest = Array(text.utf8)[...]
            while let byte = rest.popFirst() {
                let digits = String(decoding: rest.prefix(3), as: UTF8.self)
                if byte == UInt8(ascii: "\\"), digits.utf8.count == 3, let escaped = UInt8(digits, radix: 8) {
                    bytes.append(escaped)
                    rest = rest.dropFirst(3)
                } else {
                    bytes.append(byte)
                }
            }
            return String(decoding: bytes, as: UTF8.self)
        }
    }

    /// A group's path in its hierarchy. It starts with `..` if the group is outside the cgroup namespace.
    private struct Path {
        let names: [Substring]

        init(_ text: Substring) { names = text.split(separator: "/") }

        /// The components from `root` down to this path; nil if this path is not below `root`.
        func below(_ root: Path) -> [Substring]? {
            guard names.starts(with: root.names) else { return nil }
            let rest = Array(names.dropFirst(root.names.count))
            return rest.contains("..") ? nil : rest
        }
    }
}
