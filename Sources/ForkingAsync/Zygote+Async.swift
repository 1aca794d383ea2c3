// SPDX-License-Identifier: Apache-2.0
//
// Host: awaiting a zygote's calls. Waits by Dispatch, not by SwiftNIO: Swift tasks on Linux run on Dispatch, so every
// program that awaits contains it, and no event loop group has to be passed around. Blocks no thread.

import Dispatch
public import Forking
public import SystemPackage

extension Zygote {
    /// Runs a handler in a child and awaits its reply. Cancelling the task kills the child. Host.
    ///
    /// The parameters are those of `runAndWait`.
    ///
    /// - Throws: `ForkingError`, which says what became of the call; `.cancelled` if the task was cancelled.
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

    /// Drains the zygote and awaits its end. After `timeout` the zygote and its children are killed. Host.
    ///
    /// - Returns: whether all calls ended before `timeout`.
    @discardableResult
    public func shutDown(timeout: Duration = .seconds(30)) async -> Bool {
        await withCheckedContinuation { continuation in
            // Blocks a thread, once in a host's life; it is not one that runs tasks.
            DispatchQueue.global().async { continuation.resume(returning: self.shutDownAndWait(timeout: timeout)) }
        }
    }
}

extension Zygote.Handlers {
    /// Registers an `async` handler that replies to a call. It runs in a child.
    ///
    /// The child's one thread runs all its Tasks, also those of the main actor, one after the other and whatever their
    /// priority. So they need no threads, and work within any `ResourceLimits` that suffice for the handler itself. A
    /// handler that blocks the thread until another Task has done something waits for ever, or to the deadline: let it
    /// await the Task. Tasks that it has not awaited end with the child. Threads, Dispatch queues and event loops can
    /// be used, and can resume a continuation; the main queue cannot, because no thread runs it.
    public mutating func answer(
        _ name: String, _ handler: @escaping @Sendable (Zygote.Request) async throws -> Zygote.Reply
    ) {
        rehearsal = rehearseOwnThread
        answer(name) { (request: Zygote.Request) throws -> Zygote.Reply in
            nonisolated(unsafe) var reply = Zygote.Reply()  // this thread runs the handler, and comes back at its end
            try runOnOwnThread { reply = try await handler(request) }
            return reply
        }
    }

    /// Registers an `async` handler that serves a connection from `Zygote.handOff`. It runs in a child, as one of
    /// `answer` does. The connection is closed when it returns or throws.
    public mutating func serve(
        _ name: String, _ handler: @escaping @Sendable (inout Connection, Zygote.Request) async throws -> Void
    ) {
        rehearsal = rehearseOwnThread
        serve(name) { (connection: inout Connection, request: Zygote.Request) throws in
            try withUnsafeMutablePointer(to: &connection) { pointer in
                nonisolated(unsafe) let connection = pointer
                try runOnOwnThread { try await handler(&connection.pointee, request) }
            }
        }
    }
}

extension Zygote.Call {
    /// Awaits the reply. Cancelling the task kills the child. Call this once. Host.
    ///
    /// - Throws: `ForkingError`, as `Zygote.Call.poll()`.
    public func reply() async throws(ForkingError) -> Zygote.Reply {
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { Watch(self, $0).begin() }
        } onCancel: {
            cancel()
        }
        return try result.get()
    }
}

/// Polls a call when its descriptor is readable, or when its next poll is due.
private final class Watch: @unchecked Sendable {  // used on one queue only
    typealias Outcome = Result<Zygote.Reply, ForkingError>

    private let call: Zygote.Call
    private let queue = DispatchQueue(label: "forking.call")
    /// Nil while the call waits for a slot: it has no descriptor until then.
    private var source: (any DispatchSourceRead)?
    /// Released with the call. A block scheduled by asyncAfter would stay until its deadline.
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
        // The descriptor may be closed only after this; it is closed when the call is released.
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
