// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import TestSupport

let tableScenarios: [String: @Sendable () throws -> Void] = [
    "coalesced-exits": coalescedExits
]

/// The kernel merges SIGCHLDs: 100 exits that happen while nobody looks give one signal.
private func coalescedExits() throws {
    var ended: [ChildExit] = []
    let table = try ChildTable(limit: 100)
    table.onExit = { ended.append($0) }
    let gate = try pipe()
    for code in 0..<100 {
        try table.fork {
            var byte: UInt8 = 0
            close(gate.write)
            _ = read(gate.read, &byte, 1)
            return Int32(code)
        }
    }
    close(gate.read)
    close(gate.write)
    try eventually("not all have exited") { table.children.allSatisfy { Process($0.pid)!.isZombie } }
    table.collect()
    try expect(table.count == 0, "\(table.count) left in the table")
    let codes = Set(ended.map(\.status))
    try expect(codes == Set((0..<100).map { .exited(code: $0) }), "not every status was told")
}
