// SPDX-License-Identifier: Apache-2.0
//
// Worker, on the thread that runs its body.

public import Forking
public import NIOCore
import NIOPosix

extension Worker {
    /// Serves the worker's listeners with SwiftNIO, with a task for each connection, until the worker has been asked to
    /// drain and its last connection has closed. Worker. The worker's synchronous body calls this inside `Worker.run`
    /// of ForkingAsync.
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
    /// It calls `notifyReady()`, and `sendHeartbeat()` as long as all event loops run and Concurrency has a thread to
    /// run a task.
    ///
    /// If `setup` adds NIO's HTTP/1 decoder, each HTTP request is counted by `beginRequest` and `endRequest`. The
    /// connection is closed after the response to a request that asks for it or, while the worker drains, to the next
    /// request; that response says `Connection: close`. Any other connection counts as one request without a timeout,
    /// and its handlers must close it. A long-lived one should check `isDraining`.
    ///
    /// A draining worker accepts no more clients, but closes no connection, not even an idle one, because its client
    /// may be about to send the next request, which is answered. `limits` and the parent's drain timeout end such
    /// connections.
    ///
    /// - Parameters:
    ///   - group: the event loops, which the caller must shut down. The default is one loop, because each worker uses
    ///     one processor.
    ///   - limits: how long an HTTP client may take to send a request's head, and how long it may be idle.
    ///   - setup: makes a connection's pipeline, on its event loop, as NIO's `childChannelInitializer` does.
    ///   - handle: serves the connection, with the result of `setup`. The connection is closed when it returns. A
    ///     client that has shut down its sending side still counts as connected.
    /// - Throws: `ForkingError.Code.system` if waiting or accepting fails permanently. Shortages are waited out.
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

    /// The same with channel handlers only: blocks the calling thread, and does not use Concurrency. Worker; must not
    /// run on an event loop.
    ///
    /// - Parameters:
    ///   - group: the event loops, which the caller must shut down. The default is one loop.
    ///   - limits: how long an HTTP client may take to send a request's head, and how long it may be idle.
    ///   - setup: adds the connection's handlers, on its event loop.
    /// - Throws: as the function above.
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
