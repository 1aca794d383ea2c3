// SPDX-License-Identifier: Apache-2.0

import Glibc

/// What the kernel's own threads compute, such as those that look through all pages of memory, and all users of each.
/// They share the processors with what is measured, and some have the more to do the more processes there are: with
/// thousands of idle children it can be most of what a server loses.
struct KernelThreads {
    private let ticks: [pid_t: Int]
    private let at = nanoseconds()

    /// As of now. Where none can be seen, as in most containers, they seem to do nothing.
    init() {
        let threads = ProcessStatus.processes().compactMap { pid in
            ProcessStatus(pid).flatMap { $0.parent == Self.mother ? (pid, $0.ticks) : nil }
        }
        ticks = Dictionary(uniqueKeysWithValues: threads)
    }

    /// kthreadd
    private static let mother: pid_t = 2

    /// What they have taken of all processors' time since then, and which took most.
    func share(until now: KernelThreads, processors: Int) -> (share: Double, busiest: String?) {
        let spent = now.ticks.map { (pid: $0, ticks: $1 - ticks[$0, default: 0]) }
        let all = Double(now.at - at) / 1e9 * Double(processors * ProcessStatus.ticksPerSecond)
        let busiest = spent.max { $0.ticks < $1.ticks }
        let name = busiest.flatMap { KernelFile.text("/proc/\($0.pid)/comm") }
        return (Double(spent.reduce(0) { $0 + $1.ticks }) / all, name.map { String($0.prefix { $0 != "\n" }) })
    }
}
