// SPDX-License-Identifier: Apache-2.0

import CForkbench
import Glibc

/// What the kernel lets this process have.
enum Limits {
    /// What a measurement needs at once.
    struct Need {
        /// Besides this one.
        var processes: Int
        var descriptors: Int
        var memoryKiB = 0
    }

    /// What of `need` this machine, or one of its limits, can't give: which limit, and what it would have to be. Nil,
    /// and this process's soft limits raised as far as needed, if it can.
    static func lack(of need: Need) -> String? {
        lackOfDescriptors(need.descriptors) ?? lackOfProcesses(need.processes) ?? lackOfMemory(need.memoryKiB)
    }

    /// As `lack`, for who can't do with less.
    static func provide(children: Int, descriptors: Int) throws {
        if let lack = lack(of: Need(processes: children, descriptors: descriptors)) { throw Shortage(lack) }
    }

    /// How many processors' time this process may use, as far as its affinity and its control groups limit it.
    static var processors: Int {
        let quotas = KernelFile.controlGroups("cpu").compactMap { group -> Double? in
            // "max 100000" or "150000 100000" in version 2; two files in version 1, -1 for no limit.
            let words = (KernelFile.text(group + "/cpu.max") ?? "").split { $0 == " " || $0 == "\n" }
            let quota =
                words.first.flatMap { Double($0) } ?? KernelFile.number(group + "/cpu.cfs_quota_us").map(Double.init)
            let period =
                words.last.flatMap { Double($0) } ?? KernelFile.number(group + "/cpu.cfs_period_us").map(Double.init)
            guard let quota, let period, quota > 0, period > 0 else { return nil }
            return quota / period
        }
        return quotas.reduce(Int(forkbench_processors())) { max(1, min($0, Int($1.rounded(.up)))) }
    }

    /// Idle connections are held by processes of their own, which need a descriptor for each.
    static let connectionsPerHolder = 8000

    /// For what else runs here.
    private static let spareProcesses = 64
    private static let spareMemoryKiB = 256 * 1024
    /// The kernel keeps the first numbers for its own once it has gone round.
    private static let reservedNumbers = 300

    private static func lackOfDescriptors(_ needed: Int) -> String? {
        raise(RLIMIT_NOFILE, to: needed).map {
            "it needs \(needed) descriptors, and at most \($0) are allowed (ulimit -n)"
        }
    }

    private static func lackOfProcesses(_ children: Int) -> String? {
        let needed = children + spareProcesses
        func lack(_ what: String, _ total: Int) -> String {
            "it needs \(total) processes, those that run now included, and \(what)"
        }
        if geteuid() != 0 {  // whom the limit does not bind
            let total = needed + KernelFile.processes(of: getuid())
            if let limit = raise(__RLIMIT_NPROC, to: total) {
                return lack("the user may have \(limit) (ulimit -u)", total)
            }
        }
        let running = KernelFile.threadCount
        for (name, reserved) in [("pid_max", reservedNumbers), ("threads-max", 0)] {
            let total = needed + running + reserved
            if let limit = KernelFile.number("/proc/sys/kernel/\(name)"), limit < total {
                return lack("kernel.\(name) is \(limit)", total)
            }
        }
        for group in KernelFile.controlGroups("pids") {
            let total = needed + (KernelFile.number(group + "/pids.current") ?? 0)
            if let limit = KernelFile.number(group + "/pids.max"), limit < total {
                return lack("its control group may have \(limit) (pids.max)", total)
            }
        }
        return nil
    }

    private static func lackOfMemory(_ kibibytes: Int) -> String? {
        let needed = kibibytes + spareMemoryKiB
        func lack(_ have: Int, _ whose: String) -> String? {
            have >= needed ? nil : "it needs about \(needed / 1024) MiB of memory, and \(whose) \(max(0, have) / 1024)"
        }
        if let available = KernelFile.number("/proc/meminfo", after: "MemAvailable:"),
            let lack = lack(available, "the machine has")
        {
            return lack
        }
        // What of its memory is files is given back when needed.
        for group in KernelFile.controlGroups("memory") {
            for (limit, usage, files) in [
                ("memory.max", "memory.current", "inactive_file"),
                ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
            ] {
                guard let limit = KernelFile.number("\(group)/\(limit)"),
                    let usage = KernelFile.number("\(group)/\(usage)")
                else { continue }
                let given = KernelFile.number("\(group)/memory.stat", after: files) ?? 0
                if let lack = lack((limit - usage + given) / 1024, "its control group has") { return lack }
            }
        }
        return nil
    }

    /// Returns the hard limit if that is lower.
    private static func raise(_ resource: __rlimit_resource, to needed: Int) -> UInt? {
        let resource = __rlimit_resource_t(resource.rawValue)
        var limit = rlimit()
        getrlimit(resource, &limit)
        if limit.rlim_cur >= rlim_t(needed) { return nil }
        guard limit.rlim_max >= rlim_t(needed) else { return limit.rlim_max }
        limit.rlim_cur = limit.rlim_max
        return setrlimit(resource, &limit) == 0 ? nil : limit.rlim_max
    }

    /// Why a fork may have failed.
    static var description: String {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(__RLIMIT_NPROC.rawValue), &limit)
        let processes = limit.rlim_cur == rlim_t.max ? "unlimited" : String(limit.rlim_cur)
        let most = KernelFile.number("/proc/sys/kernel/pid_max").map(String.init) ?? "unknown"
        return "the user's limit (ulimit -u) is \(processes), the kernel's (kernel.pid_max) \(most), "
            + "and a container may have its own (pids.max)"
    }
}
