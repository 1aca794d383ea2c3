// SPDX-License-Identifier: Apache-2.0

import Dispatch
public import Forking
import ForkingAsync
public import ServiceLifecycle
import SystemPackage

/// A zygote as a service of swift-service-lifecycle's. Host.
///
/// ```swift
/// let zygote = try Zygote.start { … }  // the first act of main
/// let group = ServiceGroup(
///     services: [ZygoteService(zygote), application], gracefulShutdownSignals: [.sigterm, .sigint], logger: logger)
/// try await group.run()
/// ```
///
/// While it runs, a zygote that is lost comes back at once, or after its pause, without a call that asks for it. On
/// graceful shutdown the zygote takes no more calls, and ends after the last; it is killed if that takes too long, or
/// if the service is cancelled. Services shut down in reverse order: those that call the zygote stand after it, and are
/// served to their end.
public struct ZygoteService: Service {
    private let zygote: Zygote
    private let drainTimeout: Duration

    /// Of a zygote that was started before.
    ///
    /// - Parameters:
    ///   - zygote: the zygote.
    ///   - drainTimeout: how long the last calls may take on graceful shutdown; then they are killed.
    public init(_ zygote: Zygote, drainTimeout: Duration = .seconds(30)) {
        self.zygote = zygote
        self.drainTimeout = drainTimeout
    }

    /// Returns when there is no zygote any more: after graceful shutdown or cancellation, or when somebody else has
    /// drained or killed it. No thread waits.
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
    /// How the group names it in its log.
    public var description: String { "ZygoteService" }
}

/// Looks after a zygote whenever there may be news of it.
///
/// All on one queue, also what it is told: a zygote that is killed is waited for, which is none of a task's business.
private final class ZygoteKeeper: @unchecked Sendable {
    private let zygote: Zygote
    private let queue = DispatchQueue(label: "forking.zygote")
    /// What is waited for: the zygote's descriptor, or time. Cancelled when that has come.
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
        // A duplicate, as any thread's call may find the zygote ended and close its descriptor. Dispatch would never
        // hear of another file that then gets its number.
        let descriptor = zygote.duplicateDescriptor()
        let source: any DispatchSourceProtocol
        if let descriptor {
            source = DispatchSource.makeReadSource(fileDescriptor: descriptor.rawValue, queue: queue)
        } else {
            // The zygote's next start is not due; or there was no descriptor to spare.
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
