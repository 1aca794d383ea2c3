// SPDX-License-Identifier: Apache-2.0

import Glibc

/// What the kernel lets this process have.
enum Limits {
    /// Raises the soft limits to what is needed.
    ///
    /// - Throws: `Shortage`, which names the limit and what it would have to be. Limits of the machine or of a control
    ///   group show later, when a fork fails.
    static func provide(children: Int, descriptors: Int) throws {
        let spare = 32  // for what else this user runs
        if geteuid() != 0 { try raise(RLIMIT_NPROC, "processes (RLIMIT_NPROC, ulimit -u)", children + spare) }
        try raise(Int32(RLIMIT_NOFILE.rawValue), "descriptors (RLIMIT_NOFILE, ulimit -n)", descriptors)
    }

    private static let RLIMIT_NPROC = Int32(__RLIMIT_NPROC.rawValue)

    private static func raise(_ resource: Int32, _ name: String, _ needed: Int) throws {
        let resource = __rlimit_resource_t(UInt32(resource))
        var limit = rlimit()
        guard getrlimit(resource, &limit) == 0 else { throw Shortage(call: "getrlimit") }
        if limit.rlim_cur >= rlim_t(needed) { return }
        guard limit.rlim_max >= rlim_t(needed) else {
            throw Shortage("this needs \(needed) \(name), and at most \(limit.rlim_max) are allowed")
        }
        limit.rlim_cur = limit.rlim_max
        guard setrlimit(resource, &limit) == 0 else { throw Shortage(call: "setrlimit") }
    }

    /// Why a fork may have failed.
    static var description: String {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(UInt32(RLIMIT_NPROC)), &limit)
        let processes = limit.rlim_cur == rlim_t.max ? "unlimited" : String(limit.rlim_cur)
        return "the user's limit (ulimit -u) is \(processes), the kernel's (kernel.pid_max) \(firstLine("pid_max")), "
            + "and a container may have its own (pids.max)"
    }

    private static func firstLine(_ name: String) -> String {
        String(readFile("/proc/sys/kernel/\(name)")?.prefix { $0 != "\n" } ?? "unknown")
    }
}
