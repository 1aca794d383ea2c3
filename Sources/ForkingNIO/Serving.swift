// SPDX-License-Identifier: Apache-2.0
//
// Worker: the thread that runs its body, and the event loops. It accepts, counts requests, and drains.

import Forking
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import SystemPackage

/// Worker: serves with NIO, from the first client to the last.
///
/// One thread waits for clients while there are none. It passes the first one to an event loop, which then accepts one
/// in each of its turns until none is left. A busy loop therefore accepts few, and a stuck one only one.
///
/// NIO's own listening channels expect a single process. In debug builds they trap if another process has accepted the
/// client that woke them. Each client wakes all of them. They set the backlog of a given socket to 128. A closed one
/// discards clients that it has accepted for another event loop.
final class Serving: Sendable {
    /// Makes a connection's pipeline, and returns what to call once the connection is open.
    typealias Setup = @Sendable (Serving, any Channel) -> EventLoopFuture<@Sendable () -> Void>

    /// Counts open connections, tasks that serve one, and the acceptor. It is over when all have ended.
    private let connections: Countdown
    private let worker: Worker
    private let group: any EventLoopGroup
    private let loops: [any EventLoop]
    private let usesTasks: Bool
    private let limits: HTTPLimits
    private let setup: Setup
    private let waiter = NIOThreadPool(numberOfThreads: 1)
    private let failure = Mutex<(any Error)?>(nil)
    private let isOver = Atomic(false)

    init(
        _ worker: Worker, on group: any EventLoopGroup, limits: HTTPLimits, tasks: Bool, setup: @escaping Setup
    ) throws {
        self.worker = worker
        self.group = group
        self.setup = setup
        self.limits = limits
        usesTasks = tasks
        loops = Array(group.makeIterator())
        connections = Countdown(on: loops[0])
    }

    /// Serves. The future succeeds when the worker has drained.
    func serve() -> EventLoopFuture<Void> {
        waiter.start()
        worker.heartbeatTimeout.map { beat(every: .init($0 / 4)) }
        waitForClient()
        worker.notifyReady()
        return connections.isOver.flatMapThrowing { [self] in
            isOver.store(true, ordering: .relaxed)
            waiter.shutdownGracefully { _ in }
            if let error = failure.withLock({ $0 }) { throw error }
        }
    }

    // MARK: Clients

    private func waitForClient() {
        waiter.submit { [self] _ in
            do {
                guard let client = try worker.queue.next() else { return stop() }
                loops[0].execute {
                    self.open(client)
                    self.takeClient()
                }
            } catch {
                stop(error)
            }
        }
    }

    /// Runs on the first event loop, once a turn.
    private func takeClient() {
        guard !worker.isDraining, let client = try? worker.queue.take() else { return waitForClient() }
        open(client)
        loops[0].execute { self.takeClient() }
    }

    private func stop(_ error: (any Error)? = nil) {
        failure.withLock { $0 = error }
        connections.leave()
    }

    private func open(_ client: AcceptQueue.Client) {
        let loop = group.next()
        let start = NIOLoopBoundBox.makeEmptyBox(valueType: (@Sendable () -> Void).self, eventLoop: loop)
        connections.enter()
        ClientBootstrap(group: loop)
            .channelOption(.allowRemoteHalfClosure, value: usesTasks)
            .channelInitializer { [self] channel in
                setup(self, channel).hop(to: loop).flatMapThrowing { [self] in
                    try watch(channel, client.peer)
                    start.value = $0
                }
            }
            .withConnectedSocket(client.descriptor.rawValue)
            .whenComplete { [self] result in
                // Fails if the set-up failed, or took so long that the client has gone.
                guard case .success(let channel) = result else { return connections.leave() }
                start.value?()
                channel.closeFuture.whenComplete { _ in self.connections.leave() }
            }
    }

    /// Counts requests: HTTP requests, or the connection as a single one.
    private func watch(_ channel: any Channel, _ peer: Forking.SocketAddress) throws {
        let pipeline = channel.pipeline.syncOperations
        if let decoder = try? pipeline.handler(type: ByteToMessageHandler<HTTPRequestDecoder>.self) {
            let clock = HTTPClock(limits)
            try pipeline.addHandler(HTTPRequests(worker, clock, from: peer), position: .after(decoder))
            try pipeline.addHandler(clock, position: .before(decoder))
        } else {
            let request = worker.beginRequest(from: peer, isTimed: false)
            channel.closeFuture.whenComplete { [worker] _ in worker.endRequest(request) }
        }
    }

    /// Runs a task that serves a connection.
    func run(_ body: @escaping @Sendable () async -> Void) {
        connections.enter()
        Task {
            await body()
            connections.leave()
        }
    }

    // MARK: Heartbeat

    /// Each heartbeat passes through every event loop and, if tasks serve, through a thread of Concurrency, so that any
    /// of them that is stuck stops it.
    private func beat(every interval: TimeAmount, from index: Int = 0) {
        guard !isOver.load(ordering: .relaxed) else { return }
        if index < loops.count {
            loops[index].execute { self.beat(every: interval, from: index + 1) }
        } else if usesTasks {
            Task { hasBeaten(every: interval) }
        } else {
            hasBeaten(every: interval)
        }
    }

    private func hasBeaten(every interval: TimeAmount) {
        worker.sendHeartbeat()
        loops[0].scheduleTask(in: interval) { self.beat(every: interval) }
    }
}
