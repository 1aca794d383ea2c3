// A Hummingbird application in a pool of worker processes: a request that traps (curl http://127.0.0.1:8080/trap) costs
// its own worker alone.

import ArgumentParser
import Forking
import ForkingAsync
import ForkingNIO
import Glibc
import Hummingbird
import HummingbirdCore
import Logging

@main struct PreforkHummingbird: ParsableCommand {
    @Argument(help: "Where to listen.") var address = "127.0.0.1:8080"
    @Option(help: "How many workers.") var workers = UsableCores.count
    @Option(help: "A Unix socket for 'forkserve status'.") var control: String?

    func run() throws {
        let address = try SocketAddress(parsing: address)
        var configuration = PreforkServer.Configuration()
        configuration.workers = workers
        configuration.control = try control.map { try SocketAddress(unix: $0) }
        configuration.requestTimeout = .seconds(5)
        let server = try PreforkServer(workers: Listener(address), configuration: configuration, body: work)
        print("listening on \(server.addresses[0])")
        fflush(nil)
        try server.serve()
    }
}

/// Worker: serves until it should drain, and its last connection has gone.
func work(_ worker: Worker) throws {
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

func routes() -> Router<BasicRequestContext> {
    let router = Router()
    router.get("/") { _, _ in "hello\n" }
    router.get("/pid") { _, _ in "\(getpid())\n" }
    router.get("/trap") { request, _ in "\([1, 2, 3][request.uri.path.count])\n" }
    router.get("/spin") { _, _ -> String in while true { sched_yield() } }
    router.get("/slow") { _, _ in
        try await Task.sleep(for: .milliseconds(100))
        return "slow\n"
    }
    return router
}
