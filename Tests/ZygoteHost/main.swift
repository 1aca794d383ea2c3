// SPDX-License-Identifier: Apache-2.0
//
// A host with threads, for tests: `zygotehost WHAT …`.

import Dispatch
import Forking
import ForkingAsync
import ForkingCodable
import Foundation

let zygote = try Zygote.start { handlers in
    handlers.answer("echo") { Zygote.Reply($0.bytes) }
    handlers.answer("sum", [Int].self) { $0.reduce(0, +) }
    handlers.answer("hang") { _ in while true { pause() } }
}

func seconds() -> Double { Double(DispatchTime.now().uptimeNanoseconds) / 1e9 }

func blocking() throws {
    var times: [Double] = []
    for _ in 0..<3000 {
        let begun = seconds()
        _ = try zygote.runAndWait("echo", [1])
        times.append(seconds() - begun)
    }
    times.sort()
    print("blocking p50 \(times[1500] * 1e6) p99 \(times[2970] * 1e6)")
}
try blocking()
var again: [Double] = []
for _ in 0..<3000 {
    let begun = seconds()
    _ = try await zygote.run("echo", [1])
    again.append(seconds() - begun)
}
again.sort()
print("async p50 \(again[1500] * 1e6) p99 \(again[2970] * 1e6)")
print(try await zygote.run("sum", [1, 2, 3], returning: Int.self))
let task = Task { try await zygote.run("hang") }
task.cancel()
print(await task.result)
print(zygote.statistics)
print(await zygote.shutDown())
