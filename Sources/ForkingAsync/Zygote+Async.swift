// SPDX-License-Identifier: Apache-2.0
//
// What awaits a zygote. It waits by Dispatch, not by SwiftNIO: Swift's tasks on Linux run on Dispatch anyway, so it is
// in each program that awaits, in any server, and needs no event loop group to be passed around. No thread waits.

import Dispatch
public import Forking
public import SystemPackage

extension Zygote {
    /// Has a child run a handler, and awaits its answer. Cancelling the task kills the child.
    ///
    /// The parameters are those of `begin`.
    ///
    /// - Throws: `ForkingError`, which tells what became of the call; `.cancelled` if the task was.
    public func run(
        _ name: String, _ bytes: [UInt8] = [], descriptors: [FileDescriptor] = [], expecting count: Int = 0,
        deadline: Duration? = nil, limits: ResourceLimits? = nil, maxReplyBytes: Int? = nil
    ) async throws(ForkingError) -> Reply {
        guard !Task.isCancelled else { throw .cancelled }
        return try await begin(
            name, bytes, descriptors: descriptors, expecting: count, deadline: deadline, limits: limits,
            maxReplyBytes: maxReplyBytes
        ).reply()
    }

    /// Drains, and awaits the zygote's end; after `timeout` it and its children are killed.
    ///
    /// - Returns: whether all had ended by themselves.
    @discardableResult
    public func shutDown(timeout: Duration = .seconds(30)) async -> Bool {
        await withCheckedContinuation { continuation in
            // Once in a host's life a thread may wait; this is none of those that run tasks.
            DispatchQueue.global().async { continuation.resume(returning: self.shutDownAndWait(timeout: timeout)) }
        }
    }
}

extension Zygote.Handlers {
    /// Child: answers a call with an `async` handler, not on the main actor, which nobody runs there. It needs threads,
    /// so `ResourceLimits` that leave no room for them are refused.
    public mutating func answer(
        _ name: String, _ handler: @escaping @Sendable (Zygote.Request) async throws -> Zygote.Reply
    ) {
        answerAsynchronously(name) { (request: Zygote.Request) throws -> Zygote.Reply in
            try waiting(for: { try await handler(request) })
        }
    }
}

extension Zygote.Call {
    /// Awaits the answer. Cancelling the task kills the child. Once.
    public func reply() async throws(ForkingError) -> Zygote.Reply {
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { Watch(self, $0).begin() }
        } onCancel: {
            cancel()
        }
        return try result.get()
    }
}

/// Looks at a call whenever there may be news of it.
private final class Watch: @unchecked Sendable {  // all on one queue
    typealias Outcome = Result<Zygote.Reply, ForkingError>

    private let call: Zygote.Call
    private let queue = DispatchQueue(label: "forking.call")
    /// Nil while the call waits for a place: so long there is no descriptor.
    private var source: (any DispatchSourceRead)?
    /// Goes away with the call. What is put off by asyncAfter would stay until the deadline, of each call.
    private let timer: any DispatchSourceTimer
    private let continuation: CheckedContinuation<Outcome, Never>
    private var outcome: Outcome?

    init(_ call: Zygote.Call, _ continuation: CheckedContinuation<Outcome, Never>) {
        self.call = call
        self.continuation = continuation
        timer = DispatchSource.makeTimerSource(queue: queue)
    }

    func begin() {
        timer.setEventHandler {
            self.look()
            self.lookLater()
        }
        timer.activate()
        queue.async { self.lookLater() }
        call.whenDecided { self.queue.async { self.listen() } }
    }

    private func listen() {
        look()
        guard outcome == nil else { return }
        let source = DispatchSource.makeReadSource(fileDescriptor: call.descriptor.rawValue, queue: queue)
        source.setEventHandler { self.look() }
        // Only now may the descriptor be closed, which it is when the call goes away.
        source.setCancelHandler { self.continuation.resume(returning: self.outcome!) }
        self.source = source
        source.activate()
        lookLater()
    }

    private func lookLater() {
        guard outcome == nil else { return }
        timer.schedule(deadline: .now() + .nanoseconds(Int(call.nextPollDelay.inNanoseconds)))
    }

    private func look() {
        guard outcome == nil else { return }
        do throws(ForkingError) {
            guard let reply = try call.poll() else { return }
            outcome = .success(reply)
        } catch {
            outcome = .failure(error)
        }
        timer.cancel()
        if let source { source.cancel() } else { continuation.resume(returning: outcome!) }
    }
}
