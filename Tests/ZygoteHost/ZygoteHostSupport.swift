// SPDX-License-Identifier: Apache-2.0

import Forking
import Foundation
import HostSupport
import Synchronization

/// Of the last calls.
let reports = Mutex<[Zygote.CallReport]>([])

/// What a call fails with; an error if it does not.
func failure(_ body: () async throws -> Zygote.Reply) async throws -> ForkingError {
    do { _ = try await body() } catch let error as ForkingError { return error }
    throw Failed("a call that was to fail did not")
}

/// What a child is to do, and what it then answers: both ends reckon it.
struct WorkOrder: Codable {
    enum Kind: String, Codable, CaseIterable { case allocation, foundation, tasks }
    let kind: Kind
    let number: Int

    var result: String { "\(kind.rawValue) \(number * number)" }

    /// Child.
    func done() throws -> String {
        switch kind {
        case .allocation:
            let strings = Dictionary(uniqueKeysWithValues: (0..<100).map { ($0, String(repeating: "x", count: $0)) })
            try expect(strings.values.reduce(0) { $0 + $1.count } == 4950, "wrong strings")
        case .foundation:
            let formatter = ISO8601DateFormatter()
            let date = Date(timeIntervalSince1970: Double(number))
            try expect(formatter.date(from: formatter.string(from: date)) == date, "wrong date")
            _ = try FileManager.default.contentsOfDirectory(atPath: "/proc/self/fd")
        case .tasks:
            let done = DispatchSemaphore(value: 0)
            let sum = Atomic(0)
            Task {
                let total = await withTaskGroup(of: Int.self) { group in
                    for part in 0..<8 { group.addTask { part } }
                    return await group.reduce(0, +)
                }
                sum.store(total, ordering: .releasing)
                done.signal()
            }
            done.wait()
            try expect(sum.load(ordering: .acquiring) == 28, "wrong sum")
        }
        return result
    }
}
