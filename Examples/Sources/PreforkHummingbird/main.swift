// A Hummingbird application in a pool of worker processes: a request that traps (curl http://127.0.0.1:8080/trap) costs its
// own worker alone. PreforkHummingbird [ADDRESS] [--workers N] [--control PATH] [--single]; with --single it is one process,
// as ever; with --control, `forkserve status PATH` shows what its workers do.

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

@MainActor func value(of option: String) -> String? {
    guard let place = arguments.firstIndex(of: option), place + 1 < arguments.endIndex else { return nil }
    defer { arguments.removeSubrange(place...place + 1) }
    return arguments[place + 1]
}

let workers = value(of: "--workers").map { Int($0) ?? 0 }
if let workers { configuration.workers = workers }
if let path = value(of: "--control") { configuration.control = try SocketAddress(unix: path) }
guard arguments.count <= 1, arguments.first?.hasPrefix("-") != true, workers ?? 1 > 0 else {
    print("usage: PreforkHummingbird [ADDRESS] [--workers N] [--control PATH] [--single]")
    exit(64)
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
