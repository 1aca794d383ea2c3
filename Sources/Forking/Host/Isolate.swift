// SPDX-License-Identifier: Apache-2.0

public import SystemPackage

extension Zygote {
    /// A child that lives on and answers many calls, with state of its own. Host, any thread.
    ///
    /// ```swift
    /// let isolate = try zygote.isolateAndWait("counter")
    /// let reply = try isolate.runAndWait(bytes)
    /// ```
    ///
    /// Calls are served in order of arrival, one at a time, unless the handler was registered for concurrent calls. The
    /// isolate ends when `closeAndWait` is called, when its last reference is released, with its zygote, and when its
    /// child ends and is not restarted: see `Configuration`.
    ///
    /// If the child crashes, the calls that it was serving fail with the cause. Calls that still wait are served by the
    /// next child, if there is one. That begins without state: it is made anew from the same arguments.
    public final class Isolate: Sendable {
        let core: IsolateCore

        init(_ core: IsolateCore) { self.core = core }

        deinit { core.release() }

        /// The handler's name.
        public var handler: String { core.name }
        /// Distinguishes the isolates of a zygote in events.
        public var number: Int { Int(core.number) }
        /// The calls and the child now.
        public var status: Status { core.status }

        /// Has the child answer a call, and waits for the reply. Host, any thread that may block. A task awaits `run`
        /// of ForkingAsync instead.
        ///
        /// - Parameters:
        ///   - bytes: the call's input, of any length.
        ///   - descriptors: at most 252 descriptors, which are passed to the child and stay open here.
        ///   - count: the number of descriptors that the reply must have.
        ///   - deadline: the longest duration from now on, waiting included. A call that is being served then ends with
        ///     its child, which is killed, if the isolate serves one call at a time; otherwise the child is told, and
        ///     killed a second later if it has not replied.
        ///   - maxReplyBytes: the maximum size of the reply in bytes; nil means that of the zygote's configuration.
        /// - Throws: `ForkingError`: `.handlerThrew` fails this call only; `.childEnded` and `.zygoteLost` say that the
        ///   child has ended; `.shutDown`, that the isolate has; `.full`, that too many calls wait: `maxWaiting` of
        ///   the zygote's configuration.
        @available(*, noasync, message: "await run(_:), of ForkingAsync")
        public func runAndWait(
            _ bytes: [UInt8] = [], descriptors: [FileDescriptor] = [], expecting count: Int = 0,
            deadline: Duration? = nil, maxReplyBytes: Int? = nil
        ) throws(ForkingError) -> Reply {
            let call = try core.makeCall(bytes, descriptors, count, deadline, maxReplyBytes)
            return try core.run(call).get()
        }

        /// Calls `body` once, when the first child has started, or cannot: at once, or later on another thread, which
        /// it must not block.
        package func whenStarted(_ body: @escaping @Sendable (Result<Void, ForkingError>) -> Void) {
            core.whenStarted(body)
        }

        /// Kills the child for good, as the release of the last reference does.
        package func release() { core.release() }

        /// Identifies a call that `begin` began.
        package typealias CallID = UInt64
        package static func nextCallID() -> CallID { IsolateCall.nextID() }

        /// How a call of `begin` differs from others.
        package struct CallTraits: OptionSet, Sendable {
            package let rawValue: UInt8
            package init(rawValue: UInt8) { self.rawValue = rawValue }
            /// The call only asks for what the child may want some time, or tells it what it waits for: it holds up
            /// neither `close` nor the child's replacement, and may be begun after `close`.
            package static let standing = CallTraits(rawValue: 1)
            /// The reply may also have no descriptors, where the call expects some.
            package static let orNoDescriptors = CallTraits(rawValue: 2)
        }

        /// Begins a call without waiting for it. `body` is called once, on any thread, which it must not block, unless
        /// this throws.
        package func begin(
            _ id: CallID, _ bytes: [UInt8], descriptors: [FileDescriptor], expecting count: Int, deadline: Duration?,
            maxReplyBytes: Int?, traits: CallTraits = [],
            _ body: @escaping @Sendable (Result<Reply, ForkingError>) -> Void
        ) throws(ForkingError) {
            core.begin(
                try core.makeCall(
                    bytes, descriptors, count, deadline, maxReplyBytes, id: id, traits: traits, body))
        }

        /// Fails a call that `begin` began, if it has not ended.
        package func cancel(_ id: CallID) { core.cancel(id, .cancelled) }

        /// Closes the isolate: no further calls are accepted, those that were begun are served, and the child ends by
        /// itself. After `timeout` it is killed, and calls that have no reply yet fail. Host, any thread that may
        /// block.
        ///
        /// - Returns: how the last child ended; nil if there was none, or its zygote was lost.
        @available(*, noasync, message: "await close(), of ForkingAsync")
        @discardableResult
        public func closeAndWait(timeout: Duration = .seconds(30)) -> ExitStatus? {
            core.close(timeout: timeout)
            core.waitUntilOver()
            return core.lastStatus
        }

        /// The same, without waiting.
        package func close(timeout: Duration, _ body: @escaping @Sendable (ExitStatus?) -> Void) {
            core.close(timeout: timeout)
            core.whenOver { [core] in body(core.lastStatus) }
        }

        /// Calls `body` once, when the isolate has ended for good, with the reason; nil if it was closed or released.
        /// At once if it has ended already; otherwise on another thread, which `body` must not block.
        public func whenEnded(_ body: @escaping @Sendable (ForkingError?) -> Void) {
            core.whenOver { [core] in body(core.cause) }
        }
    }
}

extension Zygote {
    /// Starts an isolate and waits until its child has started. The child has a slot, of `maxChildren`, as long as it
    /// lives. Host, any thread that may block. A task awaits `isolate` of ForkingAsync instead.
    ///
    /// - Parameters:
    ///   - name: the name of a handler that was registered by `Handlers.isolate`.
    ///   - bytes: its arguments. Each child of this isolate is made with them.
    ///   - configuration: when the child is replaced, and its limits.
    ///   - deadline: the longest duration from now on, waiting for a slot included.
    /// - Throws: `ForkingError`, as `runAndWait`.
    @available(*, noasync, message: "await isolate(_:_:), of ForkingAsync")
    public func isolateAndWait(
        _ name: String, _ bytes: [UInt8] = [], configuration: Isolate.Configuration = Isolate.Configuration(),
        deadline: Duration? = nil
    ) throws(ForkingError) -> Isolate {
        let isolate = try beginIsolate(name, bytes, configuration: configuration, deadline: deadline)
        try isolate.core.waitUntilStarted()
        return isolate
    }

    /// Starts an isolate without waiting: see `Isolate.whenStarted`.
    package func beginIsolate(
        _ name: String, _ bytes: [UInt8], configuration: Isolate.Configuration, deadline: Duration?
    ) throws(ForkingError) -> Isolate {
        guard handlerNames.contains(name) else { throw .noHandler(name, known: handlerNames) }
        guard let manner = isolates[name] else {
            throw .invalid("'\(name)' answers single calls: an isolate's handler is registered by isolate")
        }
        try configuration.check()
        try requirePositive("deadline", deadline)
        let limits = configuration.limits ?? self.configuration.child.limits
        try limits.check()
        var request = CallMessage(.request, bytes)
        request.head.handler = HandlerName(name)
        request.head.limits = limits.inC
        let core = try IsolateCore.make(
            client, self.configuration, configuration, manner, name, request, startIn: deadline)
        let isolate = Isolate(core)
        try core.open()
        return isolate
    }
}
