// SPDX-License-Identifier: Apache-2.0

import Dispatch
import Glibc

/// A job, in whichever process it is done. It gives back what it was given.
public typealias Work = @Sendable ([UInt8]) -> [UInt8]

/// The jobs that every host knows.
enum Works {
    static let all: [String: Work] = ["echo": { $0 }, "allocate": allocate, task: runTasks, "nap": nap]
    static let task = "task"

    static let napTime: useconds_t = 200_000

    /// For whoever wants to look at a child meanwhile (page_costs.py).
    @Sendable private static func nap(_ request: [UInt8]) -> [UInt8] {
        usleep(napTime)
        return request
    }

    /// Strings, a dictionary of them, and print.
    @Sendable private static func allocate(_ request: [UInt8]) -> [UInt8] {
        var places: [String: [UInt8]] = [:]
        for number in 0..<100 { places["the key \(number) of a dictionary"] = request }
        print(places.keys.sorted().joined(separator: ", "))
        return places["the key 7 of a dictionary"] ?? []
    }

    /// Tasks in a group, which need the threads of a pool that a child must start anew.
    @Sendable private static func runTasks(_ request: [UInt8]) -> [UInt8] {
        let done = DispatchSemaphore(value: 0)
        Task.detached {
            _ = await withTaskGroup(of: Int.self) { group in
                for number in 0..<4 { group.addTask { (0..<number).reduce(0, +) } }
                return await group.reduce(0, +)
            }
            done.signal()
        }
        done.wait()
        return request
    }
}
