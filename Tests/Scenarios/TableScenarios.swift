// SPDX-License-Identifier: Apache-2.0

/// The scenarios of ChildTable, by kind: each file has its own list.
let tableScenarios: [String: @Sendable () throws -> Void] = [
    tableReapingScenarios, tableForeignScenarios, tableLimitScenarios, tableHostScenarios, tableTimeScenarios,
    tableLoopScenarios, tableChildScenarios, tableDispatchScenarios, tableMarkScenarios, tableProgramScenarios,
    tableContainmentScenarios, tableTraceScenarios,
].reduce(into: [:]) { $0.merge($1) { _, _ in fatalError("two scenarios of one name") } }
