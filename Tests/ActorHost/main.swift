// SPDX-License-Identifier: Apache-2.0
//
// A host of actors that live in processes of their own, for tests: `actorhost MODE [COUNT]`. It prints `ok` and exits 0,
// or says on stderr what went wrong.

import Forking
import ForkingDistributed
import Foundation
import Glibc
import HostSupport

func configuration() -> Zygote.Configuration {
    var configuration = Zygote.Configuration()
    configuration.maxChildren = 100
    return configuration
}

let zygote = try Zygote.start(configuration: configuration()) { handlers in
    handlers.actor(Counter.self) { (system, start: Int) in Counter(start, actorSystem: system) }
    handlers.actor(Shapes.self) { Shapes(actorSystem: $0) }
    handlers.actor(Caller.self) { Caller(actorSystem: $0) }
    handlers.actor(Hesitant.self) { system in
        if let first = try? Hesitant(1, actorSystem: system) { return first }
        return try Hesitant(2, actorSystem: system)
    }
    handlers.actor(Uncoded.self, codec: NoCodec()) { (system, text: String) in Uncoded(text, actorSystem: system) }
    handlers.actor(Impossible.self) { try Impossible(actorSystem: $0) }
    registerPort(in: &handlers)
    registerDispatch(in: &handlers)
}
let system = IsolateSystem(zygote)

let modes: [String: @Sendable (Int) async throws -> Void] = [
    "bad-calls": badCalls,
    "callbacks": callbacks,
    "cancellation": cancellation,
    "deadlines": deadlines,
    "ends": ends,
    "equality": equality,
    "executors": executors,
    "generics": generics,
    "identity": identity,
    "lifetimes": lifetimes,
    "local-calls": localCalls,
    "many": manyCalls,
    "overloads": overloads,
    "protocols": protocols,
    "references": references,
    "released": released,
    "resolvable": resolvable,
    "restarts": restarts,
    "shapes": shapes,
    "state": stateIsKept,
    "storm": storm,
    "surroundings": surroundings,
    "teams": teams,
    "time": time,
    "uncoded": uncoded,
    "zygote-killed": zygoteKilled,
]

await runMode(of: modes) { zygote.stop(.kill) }
