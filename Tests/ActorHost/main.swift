// SPDX-License-Identifier: Apache-2.0
//
// A host of actors that live in processes of their own, for tests: `actorhost MODE [COUNT]`. It prints `ok` and exits 0,
// or says on stderr what went wrong.

import Forking
import ForkingDistributed
import Foundation
import Glibc

func configuration() -> Zygote.Configuration {
    var configuration = Zygote.Configuration()
    configuration.maxChildren = 100
    return configuration
}

let zygote = try Zygote.start(configuration: configuration()) { handlers in
    handlers.actor(Counter.self) { (system, start: Int) in Counter(start, actorSystem: system) }
    handlers.actor(Shapes.self) { Shapes(actorSystem: $0) }
    handlers.actor(Caller.self) { Caller(actorSystem: $0) }
    handlers.actor(Impossible.self) { try Impossible(actorSystem: $0) }
}
let system = IsolateSystem(zygote)

let modes: [String: @Sendable (Int) async throws -> Void] = [
    "callbacks": callbacks,
    "cancellation": cancellation,
    "deadlines": deadlines,
    "ends": ends,
    "identity": identity,
    "many": manyCalls,
    "restarts": restarts,
    "shapes": shapes,
    "state": stateIsKept,
    "time": time,
    "zygote-killed": zygoteKilled,
]

let arguments = CommandLine.arguments
guard arguments.count >= 2, let mode = modes[arguments[1]] else {
    FileHandle.standardError.write(
        Data("usage: actorhost \(modes.keys.sorted().joined(separator: "|")) [COUNT]\n".utf8))
    exit(64)
}
do {
    try await mode(arguments.count > 2 ? Int(arguments[2]) ?? 1 : 1)
    zygote.stop(.kill)
    print("ok")
} catch {
    FileHandle.standardError.write(Data("\(arguments[1]): \(error)\n".utf8))
    exit(1)
}
