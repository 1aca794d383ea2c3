// SPDX-License-Identifier: Apache-2.0
//
// Host, on a Dispatch queue of its own.

import Dispatch
public import Forking
import ForkingAsync
public import ServiceLifecycle
import SystemPackage

/// A zygote as a service of swift-service-lifecycle. Host.
///
/// ```swift
/// let zygote = try Zygote.start { … }  // the first act of main
/// let group = ServiceGroup(
///     services: [ZygoteService(zygote), application], gracefulShutdownSignals: [.sigterm, .sigint], logger: logger)
/// try await group.run()
/// ```
///
/// While it runs, a lost zygote is replaced at once, or after the pause, without waiting for the next call. On graceful
/// shutdown the zygote accepts no more calls and ends after the last one. It is killed if that takes too long, or if
/// the service is cancelled. Services shut down in reverse order: place those that call the zygote after it, so that
/// their calls are completed.
public struct ZygoteService: Service {
    private let zygote: Zygote
    private let drainTimeout: Duration

    /// Makes a service of a zygote that has been started.
    ///
    /// - Parameters:
    ///   - zygote: the zygote.
    ///   - drainTimeout: how long the last calls may take on graceful shutdown; then they are killed.
    public init(_ zygote: Zygote, drainTimeout: Duration = .seconds(30)) {
        self.zygote = zygote
        self.drainTimeout = drainTimeout
    }

    /// Returns when the zygote has ended for good: after graceful shutdown or cancellation, or because other code has
    /// stopped it. Blocks no thread.
    public func run() async {
        let keeper = ZygoteKeeper(zygote)
        await withTaskCancellationHandler {
            await withGracefulShutdownHandler {
                await keeper.keep()
            } onGracefulShutdown: {
                keeper.drain(drainTimeout)
            }
        } onCancel: {
            keeper.kill()
        }
    }
}

extension ZygoteService: CustomStringConvertible {
    /// The service's name in the group's log.
    public var description: String { "ZygoteService" }
}

/// Polls a zygote when its descriptor is readable, or when its next start is due.
///
/// Everything runs on one queue, also `drain` and `kill`: killing a zygote waits for its end, which must not block a
/// task's thread.
private final class ZygoteKeeper: @unchecked Sendable {
    private let zygote: Zygote
    private let queue = DispatchQueue(label: "forking.zygote")
    /// The source for the zygote's descriptor, or the timer. Cancelled when it fires.
    private var source: (any DispatchSourceProtocol)?
    private var continuation: CheckedContinuation<Void, Never>?

    init(_ zygote: Zygote) { self.zygote = zygote }

    func keep() async {
        await withCheckedContinuation { continuation in
            queue.async {
                self.continuation = continuation
                self.look()
            }
        }
    }

    func drain(_ timeout: Duration) {
        queue.async {
            self.zygote.stop()
            self.source?.cancel()
        }
        queue.asyncAfter(deadline: .now() + .nanoseconds(Int(timeout.inNanoseconds))) { [weak self] in
            self?.zygote.stop(.kill)
        }
    }

    func kill() {
        queue.async {
            self.zygote.stop(.kill)
            self.source?.cancel()
        }
    }

    private func look() {
        let pause = zygote.poll()
        guard !zygote.hasEnded else {
            continuation?.resume()
            continuation = nil
            return
        }
        // A duplicate, because any thread's call may find that the zygote has ended and close the descriptor. Dispatch
        // would not notice if another file got its number.
        let descriptor = zygote.duplicateDescriptor()
        let source: any DispatchSourceProtocol
        if let descriptor {
            source = DispatchSource.makeReadSource(fileDescriptor: descriptor.rawValue, queue: queue)
        } else {
            // The zygote's next start is not due yet, or there was no descriptor.
            let timer = DispatchSource.makeTimerSource(queue: queue)
            timer.schedule(deadline: .now() + .nanoseconds(Int((pause ?? .milliseconds(100)).inNanoseconds)))
            source = timer
        }
        source.setEventHandler { source.cancel() }
        source.setCancelHandler {
            try? descriptor?.close()
            self.look()
        }
        self.source = source
        source.activate()
    }
}
