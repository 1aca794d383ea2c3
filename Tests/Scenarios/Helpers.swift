// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import TestSupport

// Swift 6 does not let the C globals be touched, as other threads might. Here is one thread.
func stderrStream() -> UnsafeMutablePointer<FILE> { fdopen(2, "w") }

func limitDescriptors(to count: rlim_t) {
    var limit = rlimit(rlim_cur: count, rlim_max: count)
    setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

/// Throws if this process has a child left, alive or a zombie.
func expectNoChildren() throws {
    var info = siginfo_t()
    let left = waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT)
    try expect(left == -1 && errno == ECHILD, "a child is left")
}
