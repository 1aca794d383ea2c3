// SPDX-License-Identifier: Apache-2.0

import Testing

extension Trait where Self == ConditionTrait {
    /// The test needs a program that may not be there; `package` is what Debian calls the package that has it.
    public static func needs(_ program: String, package: String) -> Self {
        .enabled(if: isInstalled(program), "needs \(program): apt-get install \(package)")
    }
}
