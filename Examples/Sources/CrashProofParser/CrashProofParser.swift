// SPDX-License-Identifier: Apache-2.0
//
// A parser that traps on bad input, as a distributed actor in a process of its own: `CrashProofParser TEXT …`.

import Distributed
import Forking
import ForkingAsync
import ForkingDistributed

distributed actor Parser {
    typealias ActorSystem = IsolateSystem

    /// The sum of the second column. Traps in a line that has no number there.
    distributed func sum(_ lines: String) -> Int {
        lines.split(separator: "\n").reduce(0) { $0 + Int($1.split(separator: ",")[1])! }
    }
}

@main struct CrashProofParser {
    static func main() async throws {
        let zygote = try Zygote.start { $0.actor(Parser.self) { Parser(actorSystem: $0) } }  // first of all
        let system = IsolateSystem(zygote)
        var options = IsolateSystem.Options()
        options.restart = .always
        let parser = try await system.create(Parser.self, options: options)
        let given = CommandLine.arguments.dropFirst()
        for text in given.isEmpty ? ["a,1\nb,2", "this is no table", "c,3"] : Array(given) {
            do { print("sum: \(try await parser.sum(text))") } catch { print("not parsed: \(error)") }
        }
        await zygote.shutDown()
    }
}
