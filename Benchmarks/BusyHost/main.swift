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

    distributed func answer(_ request: String) -> String {
        String(decoding: work(Array(request.utf8)), as: UTF8.self)
    }

    /// Encoded as JSON, which texts and bytes are not.
    struct Line: Codable { var text: String }

    distributed func answer(_ request: Line) -> Line {
        Line(text: String(decoding: work(Array(request.text.utf8)), as: UTF8.self))
    }
}

func register(_ handlers: inout Zygote.Handlers, _ work: @escaping Work) {
    handlers.actor(Worker.self) { Worker(work, actorSystem: $0) }
}

let distributed = AwaitedMethod("distributed", register: register) { zygote in
    let worker = try await IsolateSystem(zygote).create(Worker.self)
    return { Array(try await worker.answer(String(decoding: $0, as: UTF8.self)).utf8) }
}

let distributedJSON = AwaitedMethod("distributed-json", register: register) { zygote in
    let worker = try await IsolateSystem(zygote).create(Worker.self)
    return { Array(try await worker.answer(Worker.Line(text: String(decoding: $0, as: UTF8.self))).text.utf8) }
}

Host.run(works: ["foundation": foundation], methods: [distributed, distributedJSON], keepBusy: startBusyThreads)
