// SPDX-License-Identifier: Apache-2.0
//
// Whatever forks in a test does it here: in a process with one thread, a session of its own, and few descriptors, so
// that a leak cannot hide. `scenarios NAME` runs one; it prints `ok` and exits 0, or says on stderr what went wrong.
// `scenarios --list` says which there are: a line each, with its group, name and title.

import Glibc
import TestSupport

/// One or two for each file. A group that is missing here fails a test.
let groups: [Group] = [
    datagramScenarios, drainScenarios, drainScenariosAsRoot, lingerScenarios, preforkPoolScenarios,
    resourceLimitScenarios, rightsScenarios, sharedMemoryScenarios,
    serverScenarios, serverEndScenarios, serviceManagerScenarios, socketScenarios, startScenarios, stopScenarios,
    tableChildScenarios, tableContainmentScenarios, tableContainmentScenariosAsRoot, tableDispatchScenarios,
    tableForeignScenarios, tableHostScenarios, tableLimitScenarios, tableLoopScenarios, tableMarkScenarios,
    tableProgramScenarios, tableReapingScenarios, tableTimeScenarios, tableTraceScenarios, tableTraceScenariosAsRoot,
    zygoteCallScenarios, zygoteChildScenarios, zygoteContextScenarios, zygoteHazardScenarios,
    zygoteHazardScenariosWithTracing, zygoteHostileScenarios, zygoteIsolateScenarios, zygoteIsolateLifeScenarios,
    zygoteIsolateScenariosWithTracing, zygoteLifeScenarios, zygoteLimitScenarios, zygoteQueueScenarios,
    zygoteWarmScenarios, zygoteWatchScenarios,
]

/// By name, of which there is one each.
let scenarios = Dictionary(uniqueKeysWithValues: groups.flatMap(\.scenarios).map { ($0.name, $0) })

if CommandLine.arguments.dropFirst() == ["--list"] {
    for group in groups {
        for scenario in group.scenarios {
            if let title = scenario.title { print("\(group.name)\t\(scenario.name)\t\(title)") }
        }
    }
    exit(0)
}
guard CommandLine.arguments.count >= 2, let scenario = scenarios[CommandLine.arguments[1]] else {
    fputs("usage: scenarios NAME, or scenarios --list\n", stderrStream())
    exit(64)
}

do {
    limitDescriptors(to: scenario.descriptors)
    let before = openDescriptors()
    try scenario.body()
    // What is closed aside is so a moment later.
    try eventually(within: 20, "descriptors before \(before), after \(openDescriptors())") {
        openDescriptors() == before
    }
    try expectNoChildren()
    print("ok")
} catch {
    fputs("\(scenario.name): \(error)\n", stderrStream())
    exit(1)
}
