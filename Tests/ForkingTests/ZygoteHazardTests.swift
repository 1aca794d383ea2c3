// SPDX-License-Identifier: Apache-2.0

import TestSupport
import Testing

/// What a zygote has to survive. Tests/Scenarios/ZygoteHazardScenarios.swift
@Suite("Zygote: hazards")
struct ZygoteHazardTests {
    @Test(
        "What a zygote has to survive",
        arguments: [
            "look-after-drain", "not-forked", "signal-mask", "orphan", "cancel-stopped", "slow-prewarm", "observer",
            "reply-bytes", "untaken",
        ])
    func survives(_ hazard: String) throws { try pass("hazard-\(hazard)") }

    @Test("A zygote that takes long to end has a successor", .needsTracing)
    func lateToEnd() throws { try pass("hazard-late-to-end") }
}
