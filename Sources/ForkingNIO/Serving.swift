// SPDX-License-Identifier: Apache-2.0

import Forking
import NIOCore
import NIOHTTP1
import NIOPosix
import Synchronization
import SystemPackage

/// A worker that serves with NIO, from its first client to its last.
///
/// One thread waits for clients while there are none. It passes the first that comes to an event loop, which then takes
/// one in each of its turns until none is left: a busy loop takes few, and one that is stuck a single one.
///
/// NIO's own listening channels are made for one process. Built for debugging they trap when the client that woke them
/// has gone to another; each client wakes all of them; they shorten the queue of what they are given to 128; and those
/// that are closed throw away what they had accepted for another event loop.
final class Serving: Sendable {
    /// Makes a connection's pipeline, and what is to be called once it is open.
    typealias Setup = @Sendable (Serving, any Channel) -> EventLoopFuture<@Sendable () -> Void>

    /// Open connections, and tasks that serve one; over when no more are taken and all of these have ended.
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

    /// Succeeds when the worker has drained.
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

    /// On the first event loop, once a turn.
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
                // Not if its set-up failed, or took so long that its client has gone.
                guard case .success(let channel) = result else { return connections.leave() }
                start.value?()
                channel.closeFuture.whenComplete { _ in self.connections.leave() }
            }
    }

    /// Counts what the connection asks for: HTTP requests, or itself.
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

    /// A task that serves a connection.
    func run(_ body: @escaping @Sendable () async -> Void) {
        connections.enter()
        Task {
            await body()
            connections.leave()
        }
    }

    // MARK: Heartbeat

    /// Each beat goes round: from loop to loop, and through a thread of Concurrency if tasks serve. Any that is stuck
    /// holds it up.
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
