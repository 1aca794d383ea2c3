// SPDX-License-Identifier: Apache-2.0
//
// A host as most servers are: with SwiftNIO, Foundation and Tasks, and threads that are busy with them.

import ForkbenchHost
import Foundation

/// A date as text, and values as JSON and back.
@Sendable func foundation(_ request: [UInt8]) -> [UInt8] {
    let formatter = DateFormatter()
    formatter.dateStyle = .full
    formatter.timeStyle = .full
    let values = [formatter.string(from: Date()): request]
    let copy = try? JSONDecoder().decode([String: [UInt8]].self, from: JSONEncoder().encode(values))
    return copy?.values.first ?? []
}

Host.run(works: ["foundation": foundation], keepBusy: startBusyThreads)
