// A Hummingbird application in a pool of worker processes: a request that traps (curl http://127.0.0.1:8080/trap) costs its
// own worker alone. PreforkHummingbird [ADDRESS] [--workers N] [--single]; with --single it is one process, as ever.

import Forking
import ForkingNIO
import Glibc
import Hummingbird
import HummingbirdCore
import Logging

var arguments = CommandLine.arguments.dropFirst()
var configuration = PreforkServer.Configuration()
configuration.requestLimit = .seconds(5)
let single = arguments.firstIndex(of: "--single").map { arguments.remove(at: $0) } != nil
if let option = arguments.firstIndex(of: "--workers") {
    configuration.workers = arguments[(option + 1)...].first.flatMap { Int($0) } ?? 1
    arguments.removeSubrange(option..<min(option + 2, arguments.endIndex))
}
let address = try SocketAddress(parsing: arguments.first ?? "127.0.0.1:8080")

func routes() -> Router<BasicRequestContext> {
    let router = Router()
    router.get("/") { _, _ in "hello\n" }
    router.get("/pid") { _, _ in "\(getpid())\n" }
    router.get("/slow") { _, _ in
        try await Task.sleep(for: .milliseconds(100))
        return "slow\n"
    }
    router.get("/trap") { request, _ in "\([1, 2, 3][request.uri.path.count])\n" }
    router.get("/spin") { _, _ -> String in
        while true { sched_yield() }
    }
    return router
}

if single {
    let place = BindAddress.hostname(address.ip ?? "127.0.0.1", port: Int(address.port ?? 8080))
    let application = Application(router: routes(), configuration: .init(address: place))
    print("listening on \(address)")
    fflush(nil)
    try await application.runService()
    exit(0)
}
let server = try PreforkServer(InheritedSockets.listener(on: address), configuration: configuration) { worker in
    let logger = Logger(label: "hummingbird")
    let responder = routes().buildResponder()
    let http1 = HTTP1Channel { request, writer, channel in
        let context = BasicRequestContext(source: .init(channel: channel, logger: logger))
        let response = try await responder.respond(to: request, context: context)
        try await writer.write(response: response.head, body: response.body)
    }
    try worker.run {
        try await worker.serve(
            setup: { http1.setup(channel: $0, logger: logger) },
            handle: { await http1.handle(value: $0, logger: logger) })
    }
}
print("listening on \(server.addresses[0])")
fflush(nil)
try server.serve()
