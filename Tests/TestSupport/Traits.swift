// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing

extension Trait where Self == ConditionTrait {
    /// The test needs a program that may not be there; `package` is what Debian calls the package that has it.
    public static func needs(_ program: String, package: String) -> Self {
        .enabled(if: isInstalled(program), "needs \(program): apt-get install \(package)")
    }

    /// The test needs what only root may do.
    public static var needsRoot: Self { .enabled(if: geteuid() == 0, "needs root") }

    /// The test traces another process's system calls.
    public static var needsTracing: Self {
        .enabled(if: canTrace, "needs strace: apt-get install strace; and ptrace(2), which some containers forbid")
    }
}

private let canTrace =
    isInstalled("strace") && (try? Running("strace", ["-f", "-qq", "-o", "/dev/null", "true"]).wait()) == 0
