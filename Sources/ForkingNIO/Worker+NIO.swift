// SPDX-License-Identifier: Apache-2.0

public import Forking
public import NIOCore
import NIOPosix

extension Worker {
    /// Serves on the worker's listeners with SwiftNIO, a task for each connection, until the worker is told to drain
    /// and its last connection has gone. `Worker.run`, which gets from a worker's body to here, is ForkingAsync's.
    ///
    /// ```swift
    /// import Forking
    /// import ForkingAsync
    /// import ForkingNIO
    ///
    /// let server = try PreforkServer(workers: listener) { worker in
    ///     try worker.run {
    ///         try await worker.serve { channel in
    ///             http1.setup(channel: channel, logger: logger)
    ///         } handle: { connection in
    ///             await http1.handle(value: connection, logger: logger)
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// The parent is told that the worker is `notifyReady()`, and hears its `sendHeartbeat()` as long as all event
    /// loops turn and Concurrency has a thread to run a task.
    ///
    /// A connection on which `setup` puts NIO's HTTP/1 decoder is one of HTTP: its requests are what `beginRequest` and
    /// `endRequest` count, and it is closed after the answer to a request that wants that, or to the next one while the
    /// worker drains; that answer says `Connection: close`. Any other connection counts as one request without a limit,
    /// and its handlers end it; a long-lived one should look at `isDraining`.
    ///
    /// A worker that drains takes no more clients, but closes no connection, not even an idle one: its client may be
    /// about to send the next request, and gets its answer. `limits` and the parent's drain deadline are what ends
    /// those.
    ///
    /// - Parameters:
    ///   - group: the event loops, which the caller shuts down. By default one loop, as each worker has a processor.
    ///   - limits: how long a client of HTTP may take to send a request's head, and how long it may be idle.
    ///   - setup: makes a connection's pipeline, on its event loop, as NIO's `childChannelInitializer` does.
    ///   - handle: serves the connection with what `setup` made. The connection is closed when it returns. A client
    ///     that
    ///     has shut down its sending side is not taken for gone.
    /// - Throws: `ForkingError.Code.system` if waiting for clients or accepting fails for good; shortages are waited
    ///   out.
    public func serve<Value: Sendable>(
        on group: (any EventLoopGroup)? = nil, limits: HTTPLimits = HTTPLimits(),
        setup: @escaping @Sendable (any Channel) -> EventLoopFuture<Value>,
        handle: @escaping @Sendable (Value) async -> Void
    ) async throws {
        let own = group == nil ? MultiThreadedEventLoopGroup(numberOfThreads: 1) : nil
        let serving = try Serving(self, on: group ?? own!, limits: limits, tasks: true) { serving, channel in
            setup(channel).map { value in
                {
                    serving.run {
                        await handle(value)
                        channel.close(promise: nil)
                    }
                }
            }
        }
        let end = serving.serve()
        let result: Result<Void, any Error>
        do { result = .success(try await end.get()) } catch { result = .failure(error) }
        try? await own?.shutdownGracefully()
        try result.get()
    }

    /// The same with channel handlers alone: blocks the calling thread, and starts nothing of Concurrency. For the
    /// worker's body, never for an event loop.
    ///
    /// - Parameters:
    ///   - group: the event loops, which the caller shuts down. By default one loop.
    ///   - limits: how long a client of HTTP may take to send a request's head, and how long it may be idle.
    ///   - setup: adds the connection's handlers, on its event loop.
    public func serve(
        on group: (any EventLoopGroup)? = nil, limits: HTTPLimits = HTTPLimits(),
        setup: @escaping @Sendable (any Channel) -> EventLoopFuture<Void>
    ) throws {
        let own = group == nil ? MultiThreadedEventLoopGroup(numberOfThreads: 1) : nil
        defer { try? own?.syncShutdownGracefully() }
        let serving = try Serving(self, on: group ?? own!, limits: limits, tasks: false) { _, channel in
            setup(channel).map { {} }
        }
        try serving.serve().wait()
    }
}
