// SPDX-License-Identifier: Apache-2.0
//
// Worker, on any thread.

import Dispatch
public import Forking
import ForkingAsync
import Glibc
public import ServiceLifecycle
import SystemPackage
import UnixSignals

extension Worker {
    /// Runs services in a worker's body, which is synchronous. Blocks the first thread until the group has ended. When
    /// the worker is asked to drain, the group shuts down gracefully. Worker, first thread.
    ///
    /// ```swift
    /// let server = try PreforkServer(workers: listener) { worker in
    ///     let serving = WorkerService(worker) { try await worker.serve(setup: …, handle: …) }
    ///     try worker.run(ServiceGroupConfiguration(services: [database, serving], logger: logger))
    /// }
    /// ```
    ///
    /// The worker ends with its group: if a service returns or throws, the worker ends, unless the service's
    /// configuration says otherwise, and the parent forks another. A service must call `notifyReady()`, as `serve`
    /// does; until then the worker does not count as ready.
    ///
    /// - Parameter configuration: the group's configuration. SIGTERM is removed from its signals: it makes a worker
    ///   drain anyway, and a second one ends it. sigaction(2)
    /// - Throws: what the group throws.
    public func run(_ configuration: ServiceGroupConfiguration) throws {
        var configuration = configuration
        // The group would receive SIGTERM by signalfd instead of the handler, and the parent could not end a worker
        // that takes too long.
        configuration.gracefulShutdownSignals.removeAll { $0 == .sigterm }
        configuration.cancellationSignals.removeAll { $0 == .sigterm }
        let group = ServiceGroup(configuration: configuration)
        // The descriptor stays readable from the moment the worker should drain, so react once.
        let drain = DispatchSource.makeReadSource(fileDescriptor: drainDescriptor.rawValue)
        drain.setEventHandler {
            drain.cancel()
            Task { await group.triggerGracefulShutdown() }
        }
        drain.activate()
        defer { drain.cancel() }
        try run { try await group.run() }
    }
}

/// A service that ends by itself when its worker drains, as `Worker.serve` of ForkingNIO does. For the group that
/// `Worker.run(_:)` runs. Worker.
///
/// If the group shuts down for another reason, or cancels it, the service makes its worker drain: accepted clients are
/// still served. Services shut down in reverse order, so place those that it needs before it.
public struct WorkerService: Service {
    private let worker: Worker
    private let body: @Sendable () async throws -> Void

    /// - Parameters:
    ///   - worker: the worker whose drain it follows.
    ///   - body: the service's work. It must return when the worker has drained.
    public init(_ worker: Worker, _ body: @escaping @Sendable () async throws -> Void) {
        self.worker = worker
        self.body = body
    }

    /// Returns when `body` has returned; if the worker drains, not before the group asks this service to shut down.
    ///
    /// - Throws: what `body` throws.
    public func run() async throws {
        try await withTaskCancellationOrGracefulShutdownHandler {
            try await body()
        } onCancelOrGracefulShutdown: {
            // Like a SIGTERM from outside, so that the parent learns of it.
            if !worker.isDraining { Glibc.kill(getpid(), SIGTERM) }
        }
        // The group treats a service that ends before it was asked to as failed.
        if worker.isDraining { try? await gracefulShutdown() }
    }
}

extension WorkerService: CustomStringConvertible {
    /// The service's name in the group's log.
    public var description: String { "WorkerService" }
}
