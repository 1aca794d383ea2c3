// SPDX-License-Identifier: Apache-2.0

import Testing

/// What a program was started with, and what it asks for. Tests/Scenarios/StartScenarios.swift
@Suite("Starts and limits")
struct StartTests {
    @Test("no socket of ours becomes descriptor 0, 1 or 2")
    func descriptors() throws { try pass("standard-descriptors") }

    @Test("a time without an end is one", arguments: ["endless-durations", "endless-durations-of-a-pool"])
    func endless(_ scenario: String) throws { try pass(scenario) }

    @Test(
        "a file that has reached RLIMIT_FSIZE is an error for whoever writes in the parent, and no end of the server's")
    func fileSizeOfParent() throws { try pass("file-size-limit") }

    @Test("a payload over RLIMIT_FSIZE is an error, and no end of a zygote's host")
    func fileSize() throws { try pass("zygote-file-size-limit") }
}
