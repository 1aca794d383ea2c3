// SPDX-License-Identifier: Apache-2.0

public import Forking
import Synchronization
public import SystemPackage

extension Zygote {
    /// Starts an isolate and awaits the start of its child. Cancelling the task kills the child. Host.
    ///
    /// The parameters are those of `isolateAndWait`.
    nonisolated(nonsending) public func isolate(
        _ name: String, _ bytes: [UInt8] = [], configuration: Isolate.Configuration = Isolate.Configuration(),
        deadline: Duration? = nil
    ) async throws(ForkingError) -> Isolate {
        guard !Task.isCancelled else { throw .cancelled }
        let isolate = try beginIsolate(name, bytes, configuration: configuration, deadline: deadline)
        let start = await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                isolate.whenStarted { continuation.resume(returning: $0) }
            }
        } onCancel: {
            isolate.release()
        }
        try start.get()
        guard !Task.isCancelled else { throw .cancelled }
        return isolate
    }
}

private typealias Outcome = Result<Zygote.Reply, ForkingError>

extension Zygote.Isolate {
    /// Has the child answer a call, and awaits the reply. Host.
    ///
    /// If the task is cancelled while the call is being served, the child is killed; or it is told, if its handler is
    /// `async`: that handler's task is then cancelled, too, and the child is killed a second later if it has not
    /// replied. The parameters are those of `runAndWait`.
    ///
    /// - Throws: `ForkingError`, as `runAndWait`; `.cancelled`, at once, if the task was cancelled.
    nonisolated(nonsending) public func run(
        _ bytes: [UInt8] = [], descriptors: [FileDescriptor] = [], expecting count: Int = 0, deadline: Duration? = nil,
        maxReplyBytes: Int? = nil
    ) async throws(ForkingError) -> Zygote.Reply {
        try await run(
            bytes, descriptors: descriptors, expecting: count, deadline: deadline, maxReplyBytes: maxReplyBytes,
            traits: [])
    }

    /// The same for a call that is not as others.
    nonisolated(nonsending) package func run(
        _ bytes: [UInt8], descriptors: [FileDescriptor] = [], expecting count: Int = 0, deadline: Duration? = nil,
        maxReplyBytes: Int? = nil, traits: Zygote.Isolate.CallTraits
    ) async throws(ForkingError) -> Zygote.Reply {
        guard !Task.isCancelled else { throw .cancelled }
        let id = Self.nextCallID()
        let result = await withTaskCancellationHandler {
            await withCheckedContinuation { (continuation: CheckedContinuation<Outcome, Never>) in
                do throws(ForkingError) {
                    try begin(
                        id, bytes, descriptors: descriptors, expecting: count, deadline: deadline,
                        maxReplyBytes: maxReplyBytes, traits: traits
                    ) { continuation.resume(returning: $0) }
                } catch {
                    continuation.resume(returning: .failure(error))
                }
                // `onCancel` may have run before the call was begun.
                if Task.isCancelled { cancel(id) }
            }
        } onCancel: {
            cancel(id)
        }
        return try result.get()
    }

    /// Closes the isolate, and awaits the end of its child. After `timeout` the child is killed. Host.
    ///
    /// - Returns: how the last child ended; nil if there was none, or its zygote was lost.
    @discardableResult
    nonisolated(nonsending) public func close(timeout: Duration = .seconds(30)) async -> ExitStatus? {
        await withCheckedContinuation { continuation in
            close(timeout: timeout) { continuation.resume(returning: $0) }
        }
    }
}

extension Zygote.Handlers {
    /// Registers an isolate with an `async` handler, which serves several calls at once. Both closures run in the
    /// child, whose one thread runs all of their Tasks, as with `answer`.
    ///
    /// A call whose task is cancelled in the host, or whose deadline passes, has its task cancelled in the child. If
    /// the handler has not returned a second later, the child is killed.
    ///
    /// - Parameters:
    ///   - name: has 1 to 64 bytes and must be unique.
    ///   - maxConcurrentCalls: further calls wait in the host. With 1, they are served in order.
    ///   - make: is called once, with what the host passed to `isolate`, and returns what answers calls.
    public mutating func isolate(
        _ name: String, maxConcurrentCalls: Int,
        _ make:
            @escaping @Sendable (Zygote.Request) async throws ->
            @Sendable (Zygote.Request) async throws ->
            Zygote.Reply
    ) {
        rehearsal = rehearseOwnThread
        isolate(name, maxConcurrentCalls: maxConcurrentCalls) { session in
            let calls = ConcurrentCalls(session)
            try runOnOwnThread(serving: session, calls.take) {
                try calls.begin(try await make(session.arguments))
                await calls.closed()
            }
        }
    }
}

/// Child: the calls of an isolate, each in a task of its own.
private final class ConcurrentCalls: Sendable {
    typealias Handler = @Sendable (Zygote.Request) async throws -> Zygote.Reply

    private struct State {
        var handler: Handler?
        var tasks: [UInt64: Task<Void, Never>] = [:]
        var isClosed = false
        var onClose: CheckedContinuation<Void, Never>?
    }

    private let session: Zygote.IsolateSession
    private let state = Mutex(State())

    init(_ session: Zygote.IsolateSession) { self.session = session }

    func begin(_ handler: @escaping Handler) throws {
        state.withLock { $0.handler = handler }
        try session.tellStarted()
    }

    /// Begins to serve an order. It must not block. Returns whether others have probably come with it: then it pays to
    /// look for them before this one is served.
    func take(_ order: Zygote.IsolateSession.Order) -> Bool {
        switch order {
        case .call(let call):
            return state.withLock { state in
                guard let handler = state.handler else { return true }  // the host sends none before it knows of one
                // The task waits for this lock at its end.
                state.tasks[call.id] = Task.detached { await self.answer(call, handler) }
                return state.tasks.count > 1
            }
        case .cancel(let id): state.withLock { $0.tasks[id] }?.cancel()
        case .close:
            let waiting = state.withLock { state -> CheckedContinuation<Void, Never>? in
                state.isClosed = true
                return state.onClose.take()
            }
            waiting?.resume()
        }
        return true
    }

    /// Returns when no more calls will come.
    func closed() async {
        await withCheckedContinuation { continuation in
            let isClosed = state.withLock { state in
                if !state.isClosed { state.onClose = continuation }
                return state.isClosed
            }
            if isClosed { continuation.resume() }
        }
    }

    private func answer(_ call: Zygote.IsolateSession.Call, _ handler: Handler) async {
        let result: Result<Zygote.Reply, any Error>
        do { result = .success(try await handler(call.request)) } catch { result = .failure(error) }
        state.withLock { $0.tasks[call.id] = nil }
        try? session.reply(to: call, result)  // if the host has gone, so has this process in a moment
    }
}
