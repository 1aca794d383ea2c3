// A Hummingbird application whose risky jobs run in children of a zygote: one that traps (curl
// http://127.0.0.1:8080/job/trap), never ends, or eats memory costs its own request alone, which is told why. And with
// a distributed actor in a process of its own (curl http://127.0.0.1:8080/sum/1,2,3): what traps there (/sum/1,x) costs
// the requests that it was serving.

import Distributed
import Forking
import ForkingAsync
import ForkingDistributed
import Hummingbird

distributed actor Adder {
    typealias ActorSystem = IsolateSystem
    private var calls = 0

    /// Traps if there is anything but numbers.
    distributed func sum(_ numbers: String) -> String {
        calls += 1
        return "\(numbers.split(separator: ",").reduce(0) { $0 + Int($1)! }), after \(calls) calls\n"
    }
}

@main struct IsolatedHummingbird {
    static func main() async throws {
        // First of all: there must be no other thread yet.
        let zygote = try Zygote.start { handlers in
            handlers.answer("job") { request in Zygote.Reply(try work(String(decoding: request.bytes, as: UTF8.self))) }
            handlers.actor(Adder.self) { Adder(actorSystem: $0) }
        }
        var options = IsolateSystem.Options()
        options.restart = .always
        let adder = try await IsolateSystem(zygote).create(Adder.self, options: options)
        let router = Router()
        router.get("/") { _, _ in "hello\n" }
        router.get("/job/:name") { _, context in
            try await isolated(job: context.parameters.require("name"), zygote)
        }
        router.get("/sum/:numbers") { _, context in
            let numbers = try context.parameters.require("numbers")
            do { return Response(text: try await adder.sum(numbers)) } catch {
                return Response(status: .internalServerError, text: "\(error)\n")
            }
        }
        let port = CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 8080
        let app = Application(
            router: router, configuration: .init(address: .hostname("127.0.0.1", port: port)))
        try await app.runService()
        await zygote.shutDown()
    }
}

extension Response {
    init(status: HTTPResponse.Status = .ok, text: String) {
        self.init(status: status, body: .init(byteBuffer: ByteBuffer(string: text)))
    }
}

/// Host: 200 and the answer, 400 for what the handler threw, 504 for what took too long, 503 when too many wait, 500
/// for all else, with the cause.
func isolated(job: String, _ zygote: Zygote) async throws -> Response {
    var limits = ResourceLimits()
    limits.maxMemoryBytes = 512 << 20
    limits.deniesNetwork = true
    do {
        let reply = try await zygote.run("job", Array(job.utf8), deadline: .seconds(2), limits: limits)
        return Response(status: .ok, body: .init(byteBuffer: ByteBuffer(bytes: reply.bytes)))
    } catch {
        let status: HTTPResponse.Status =
            switch error.code {
            case .handlerThrew: .badRequest
            case .deadlineExceeded: .gatewayTimeout
            case .full: .serviceUnavailable
            default: .internalServerError
            }
        return Response(status: status, body: .init(byteBuffer: ByteBuffer(string: "\(error)\n")))
    }
}

/// Child: has a process of its own for this.
func work(_ job: String) throws -> [UInt8] {
    switch job {
    case "trap": return [[1, 2, 3][job.utf8.count]]
    case "loop": while true {}
    case "eat":
        var eaten: [[UInt8]] = []
        while true { eaten.append([UInt8](repeating: 1, count: 1 << 20)) }
    case "fine": return Array("done\n".utf8)
    default: throw JobError(reason: "no job '\(job)'")
    }
}

struct JobError: Error { let reason: String }
