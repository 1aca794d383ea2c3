// SPDX-License-Identifier: Apache-2.0
//
// Whatever forks in a test does it here: in a process with one thread, a session of its own, and few descriptors, so
// that a leak cannot hide. `scenarios NAME` runs one; it prints `ok` and exits 0, or says on stderr what went wrong.

import Glibc
import TestSupport

/// What can be run, by name. Each lives beside its kind.
let scenarios = [
    tableScenarios, serverScenarios, stopScenarios, serveScenarios, socketScenarios, preforkScenarios,
    preforkPoolScenarios, zygoteCallScenarios, zygoteQueueScenarios, zygoteChildScenarios, zygoteLimitScenarios,
    zygoteLifeScenarios, zygoteHostileScenarios, zygoteHazardScenarios, zygoteWatchScenarios, lingerScenarios,
    startScenarios, drainScenarios, rightsScenarios, datagramScenarios, resourceLimitScenarios,
].reduce(into: [:]) {
    $0.merge($1) { _, _ in fatalError("two scenarios of one name") }
}

guard CommandLine.arguments.count >= 2, let scenario = scenarios[CommandLine.arguments[1]] else {
    print("usage: scenarios NAME, one of\n" + scenarios.keys.sorted().map { "  " + $0 }.joined(separator: "\n"))
    exit(64)
}

do {
    let limits: [String: rlim_t] = ["prefork": 64]  // two a worker, and what whoever runs this leaves open
    limitDescriptors(
        to: CommandLine.arguments[1].hasSuffix("-many-descriptors") ? 1024 : limits[CommandLine.arguments[1]] ?? 32)
    let before = openDescriptors()
    try scenario()
    // What is closed aside is so a moment later.
    try eventually(within: 20, "descriptors before \(before), after \(openDescriptors())") {
        openDescriptors() == before
    }
    try expectNoChildren()
    print("ok")
} catch {
    fputs("\(CommandLine.arguments[1]): \(error)\n", stderrStream())
    exit(1)
}
