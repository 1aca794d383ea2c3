// A Hummingbird application whose risky jobs run in children of a zygote: one that traps (curl
// http://127.0.0.1:8080/job/trap), never ends, or eats memory costs its own request alone, which is told why.

import Forking
import ForkingAsync
import Hummingbird

@main struct IsolatedHummingbird {
    static func main() async throws {
        // First of all: there must be no other thread yet.
        let zygote = try Zygote.start { handlers in
            handlers.answer("job") { request in Zygote.Reply(try work(String(decoding: request.bytes, as: UTF8.self))) }
        }
        let router = Router()
        router.get("/") { _, _ in "hello\n" }
        router.get("/job/:name") { _, context in
            try await isolated(job: context.parameters.require("name"), zygote)
        }
        let port = CommandLine.arguments.dropFirst().first.flatMap { Int($0) } ?? 8080
        let app = Application(
            router: router, configuration: .init(address: .hostname("127.0.0.1", port: port)))
        try await app.runService()
        await zygote.shutDown()
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
