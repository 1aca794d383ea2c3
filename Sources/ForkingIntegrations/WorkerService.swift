// SPDX-License-Identifier: Apache-2.0

import Dispatch
public import Forking
import ForkingAsync
import Glibc
public import ServiceLifecycle
import SystemPackage
import UnixSignals

extension Worker {
    /// Runs services in a worker's body, which is synchronous: blocks the first thread until the group has ended. When
    /// the worker is to drain, the group shuts down gracefully.
    ///
    /// ```swift
    /// let server = try PreforkServer(workers: listener) { worker in
    ///     let serving = WorkerService(worker) { try await worker.serve(setup: …, handle: …) }
    ///     try worker.run(ServiceGroupConfiguration(services: [database, serving], logger: logger))
    /// }
    /// ```
    ///
    /// The worker ends with its group: a service that returns or throws ends the worker, unless its configuration says
    /// otherwise, and the parent forks another. A service says `notifyReady()`, as `serve` does; until then the worker
    /// does not count.
    ///
    /// - Parameter configuration: the group's. SIGTERM is not among its signals, even if it says so: that drains a
    ///   worker anyway, and a second one ends it. sigaction(2)
    /// - Throws: what the group throws.
    public func run(_ configuration: ServiceGroupConfiguration) throws {
        var configuration = configuration
        // By signalfd the group would take it from the handler, and the parent could not end a worker that stays too
        // long.
        configuration.gracefulShutdownSignals.removeAll { $0 == .sigterm }
        configuration.cancellationSignals.removeAll { $0 == .sigterm }
        let group = ServiceGroup(configuration: configuration)
        // It is at its end for ever once the worker should drain: looked at once.
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

/// Something that ends by itself when its worker drains, as `Worker.serve` of ForkingNIO does, as a service of the
/// group that `Worker.run(_:)` runs. Worker.
///
/// When its group shuts down for another reason, or cancels it, it has its worker drain: clients that were taken are
/// served. Services shut down in reverse order: what it needs stands before it.
public struct WorkerService: Service {
    private let worker: Worker
    private let body: @Sendable () async throws -> Void

    /// - Parameters:
    ///   - worker: the worker whose drain it follows.
    ///   - body: what it does. It returns when the worker has drained.
    public init(_ worker: Worker, _ body: @escaping @Sendable () async throws -> Void) {
        self.worker = worker
        self.body = body
    }

    /// Returns when `body` has, but not before the group asks this service to shut down if the worker drains.
    ///
    /// - Throws: what `body` throws.
    public func run() async throws {
        try await withTaskCancellationOrGracefulShutdownHandler {
            try await body()
        } onCancelOrGracefulShutdown: {
            // As if somebody else had: the parent is told.
            if !worker.isDraining { Glibc.kill(getpid(), SIGTERM) }
        }
        // To the group, a service that ends before its turn has failed.
        if worker.isDraining { try? await gracefulShutdown() }
    }
}

extension WorkerService: CustomStringConvertible {
    /// How the group names it in its log.
    public var description: String { "WorkerService" }
}
