// SPDX-License-Identifier: Apache-2.0
//
// A host with threads, for tests: `zygotehost MODE [COUNT]`. It prints `ok` and exits 0, or says on stderr what went
// wrong.

import Forking
import ForkingAsync
import ForkingCodable
import Foundation
import HostSupport
import Synchronization

let zygote = try Zygote.start(configuration: configuration(), hooks: hooks()) { handlers in
    handlers.answer("echo") { Zygote.Reply($0.bytes) }
    handlers.answer("zygote") { _ in Zygote.Reply(Array("\(getppid())".utf8)) }
    handlers.answer("work", WorkOrder.self) { try $0.done() }
    handlers.answer("later") { request async throws -> Zygote.Reply in
        await withTaskGroup(of: Void.self) { for _ in 0..<4 { $0.addTask { await Task.yield() } } }
        guard !request.bytes.isEmpty else { throw Failed("nothing") }
        return Zygote.Reply(request.bytes)
    }
    handlers.answer("strings") { _ async throws -> Zygote.Reply in
        let strings = (0..<1000).map { "a string that is too long to be in place, number \($0)" }
        return await Task { Zygote.Reply([UInt8(strings.count & 255)]) }.value
    }
    TaskWorks.register(in: &handlers)
    handlers.answer("trap") { Zygote.Reply([$0.bytes[$0.bytes.count]]) }
    handlers.answer("fail") { throw Failed(String(decoding: $0.bytes, as: UTF8.self)) }
    handlers.answer("exit") { exit(Int32($0.bytes[0])) }
    handlers.answer("killed") { _ in
        kill(getpid(), SIGKILL)
        return Zygote.Reply()
    }
    handlers.answer("hang") { _ in while true { pause() } }
    handlers.answer("spin") { _ in while true {} }
    addIsolates(&handlers)
    addStormIsolate(&handlers)
}

let modes: [String: @Sendable (Int) async throws -> Void] = [
    "async": asynchronousCalls,
    "busy": busyHost,
    "calm": calmHost,
    "isolate": orderedCalls,
    "isolate-concurrent": concurrentCalls,
    "isolate-ends": isolatesEnd,
    "isolate-speed": isolateSpeed,
    "isolate-values": valuesInIsolates,
    "later": laterCalls,
    "limits": limitedTasks,
    "many": manyAwaited,
    "mix": mixedFailures,
    "own-thread": onOwnThread,
    "storm": storm,
    "storm-isolates": isolateStorm,
    "zygote-killed": zygoteKilled,
]

await runMode(of: modes) {
    try expect(await zygote.shutDown(timeout: .seconds(10)), "the zygote did not end")
}

func configuration() -> Zygote.Configuration {
    var configuration = Zygote.Configuration()
    configuration.maxChildren = 16
    return configuration
}

func hooks() -> Zygote.Hooks {
    var hooks = Zygote.Hooks()
    hooks.onEvent = { event in
        if event.isTrouble { print(event) }
        if case .finished(let report) = event { reports.withLock { $0 = $0.suffix(9) + [report] } }
    }
    return hooks
}
