// SPDX-License-Identifier: Apache-2.0
//
// Forking parents whose events are logged and measured; and workers whose bodies are groups of services.

import Forking
import ForkingIntegrations
import ForkingNIO
import Glibc
import Logging
import NIOCore
import ServiceLifecycle
import UnixSignals

/// What service groups say of themselves is not looked at.
let quiet = Logger(label: "group") { _ in SwiftLogNoOpLogHandler() }

private func listener() throws -> Listener { try Listener(Forking.SocketAddress(parsing: "127.0.0.1:0")) }

// MARK: A child for each client

func serveClients() throws {
    let metrics = ServerMetrics(factory: StdoutMetrics())
    let server = try ForkingServer(listener()) { connection in
        while let line = try connection.readLine() {
            let text = String(decoding: line, as: UTF8.self)
            if text.hasPrefix("trap") { fatalError("on purpose") }
            try connection.write(line)
        }
    }
    server.hooks.onEvent = { _, event in
        logger.record(event)
        metrics.record(event)
    }
    try server.serve()
}

// MARK: A pool

/// Says when it is shut down.
private struct Database: Service {
    func run() async throws {
        say("\(getpid()) database up")
        try await gracefulShutdown()
        say("\(getpid()) database shut down")
    }
}

/// Ends, unasked, when a client wants that; or fails. Shut down, it ends after the one that serves has no client any
/// more.
private struct Fragile: Service {
    let requests: AsyncThrowingStream<Void, any Error>
    let clients: AsyncStream<Void>

    func run() async throws {
        for try await _ in requests.cancelOnGracefulShutdown() {}
        if Task.isShuttingDownGracefully { for await _ in clients {} }
        say("\(getpid()) fragile ended")
    }
}

private func serve(_ worker: Worker) throws {
    let (requests, asked) = AsyncThrowingStream<Void, any Error>.makeStream()
    let (clients, served) = AsyncStream<Void>.makeStream()
    let serving = WorkerService(worker) {
        try await worker.serve { channel in
            channel.eventLoop.makeCompletedFuture {
                try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
            }
        } handle: { connection in
            try? await connection.executeThenClose { inbound, outbound in
                for try await bytes in inbound {
                    let text = String(buffer: bytes)
                    if text.hasPrefix("end") { asked.finish() }
                    if text.hasPrefix("fail") { asked.finish(throwing: ForkingError.invalid("on purpose")) }
                    try await outbound.write(text.hasPrefix("pid") ? ByteBuffer(string: "\(getpid())\n") : bytes)
                }
            }
        }
        say("\(getpid()) served")
        served.finish()
    }
    var fragile = ServiceGroupConfiguration.ServiceConfiguration(service: Fragile(requests: requests, clients: clients))
    fragile.successTerminationBehavior = .gracefullyShutdownGroup
    // SIGTERM is the worker's own; were the group to take it, it would not be told twice.
    try worker.run(
        ServiceGroupConfiguration(
            services: [.init(service: Database()), .init(service: serving), fragile],
            gracefulShutdownSignals: [.sigterm], logger: quiet))
    say("\(getpid()) group ended")
}

func servePool() throws {
    let metrics = PreforkMetrics(factory: StdoutMetrics())
    var configuration = PreforkServer.Configuration()
    configuration.workers = 2
    configuration.drainTimeout = .seconds(20)
    let server = try PreforkServer(workers: listener(), configuration: configuration) { worker in try serve(worker) }
    server.hooks.onEvent = { _, event in
        logger.record(event)
        metrics.record(event)
    }
    try server.serve()
}
