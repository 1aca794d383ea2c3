// SPDX-License-Identifier: Apache-2.0
//
// A host as most servers are: with SwiftNIO, Foundation and Tasks, and threads that are busy with them.

import Distributed
import ForkbenchHost
import Forking
import ForkingAsync
import ForkingDistributed
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

distributed actor Worker {
    typealias ActorSystem = IsolateSystem
    private let work: Work

    init(_ work: @escaping Work, actorSystem: IsolateSystem) {
        self.work = work
        self.actorSystem = actorSystem
    }

    /// The request is text, because bytes would not be encoded.
    distributed func answer(_ request: String) -> String {
        String(decoding: work(Array(request.utf8)), as: UTF8.self)
    }
}

let distributed = AwaitedMethod("distributed") { handlers, work in
    handlers.actor(Worker.self) { Worker(work, actorSystem: $0) }
} begin: { zygote in
    let worker = try await IsolateSystem(zygote).create(Worker.self)
    return { Array(try await worker.answer(String(decoding: $0, as: UTF8.self)).utf8) }
}

Host.run(works: ["foundation": foundation], methods: [distributed], keepBusy: startBusyThreads)
