// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Right after thousands of forks the kernel still has work to do, and everything else is slower for seconds.
enum Rest {
    /// Returns when the machine has been idle for a tenth of a second, or will not be.
    static func wait() throws {
        let begun = nanoseconds()
        while seconds(since: begun) < 10 {
            let before = readTimes()
            try Interruption.sleep(milliseconds: 100)
            let after = readTimes()
            let all = after.all - before.all
            if all > 0, Double(after.idle - before.idle) >= 0.95 * Double(all) { return }
        }
    }

    private static func readTimes() -> (idle: Int, all: Int) {
        let line = (KernelFile.text("/proc/stat") ?? "").prefix { $0 != "\n" }
        let times = line.split(separator: " ").dropFirst().prefix(8).map { Int($0) ?? 0 }
        guard times.count == 8 else { return (0, 0) }
        return (times[3] + times[4], times.reduce(0, +))
    }
}
