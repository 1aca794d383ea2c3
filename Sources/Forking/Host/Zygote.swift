// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization
public import SystemPackage

/// A process, forked before this one has threads, that forks a child for each call. The child replies and exits. A
/// crash, a hang or a leak in the child affects only that call.
///
/// ```swift
/// let zygote = try Zygote.start { handlers in
///     handlers.answer("thumbnail") { request in Zygote.Reply(try thumbnail(of: request.bytes)) }
/// }
/// let reply = try zygote.runAndWait("thumbnail", bytes)
/// ```
///
/// *Host*: this process. It may have any number of threads and any heap: neither is copied by a fork. *Zygote*: a
/// process with one thread, which ends when the host ends, for whatever reason. *Child*: serves one call, or one
/// connection, and exits.
///
/// Tasks await `run` and `reply` from the ForkingAsync module. ForkingCodable passes `Codable` values instead of bytes.
/// A process started by a test runner already has threads: test handlers as functions, and the whole in an executable
/// of its own.
///
/// If the zygote dies, its calls fail with `ForkingError.Code.zygoteLost`, and the next call starts a new one. For that
/// the host executes its own executable again, with the same arguments and the environment of its own start. That
/// process becomes the zygote when its `main` reaches `Zygote.start`.
public final class Zygote: Sendable {
    /// How many calls may run and wait, and how children are set up.
    public struct Configuration: Sendable {
        /// The maximum number of children at one time. Each running call holds one of these slots.
        public var maxChildren = 40
        /// The number of children that the zygote forks ahead of calls, and renews when half of them are used. A call
        /// that finds one is answered without waiting for a fork. Each still serves one call. 0: none.
        ///
        /// They are not counted in `maxChildren`. Each uses one descriptor of this process and one of the zygote, and
        /// memory: see docs/ZYGOTE.md. A call that finds none, because many have come at once, has its child forked.
        public var warmChildren = 8
        /// The maximum number of calls that wait for a slot. They get slots in order of arrival.
        public var maxWaiting = 1000
        /// The maximum size of a reply in bytes, unless the call sets its own: the host does not trust what a child
        /// sends.
        public var maxReplyBytes = 16 << 20
        /// How children are set up and limited. `containment` must be `.group` or `.session`. They die with the zygote,
        /// whose only thread forks them. `child.limits` apply to calls that set no limits.
        public var child = ChildOptions()

        /// More would only make each refill longer, and the memory larger.
        private static let mostWarmChildren = 1000

        /// The defaults, as documented at each property.
        public init() {}

        func check() throws(ForkingError) {
            try requireAtLeast1("maxChildren", maxChildren)
            for (name, count) in [("maxWaiting", maxWaiting), ("maxReplyBytes", maxReplyBytes)] where count < 0 {
                throw .invalid("\(name) is \(count), and cannot be negative")
            }
            guard (0...Self.mostWarmChildren).contains(warmChildren) else {
                throw .invalid("warmChildren is \(warmChildren), and must be from 0 to \(Self.mostWarmChildren)")
            }
            try child.check()
            guard child.containment != .descendants, child.containment != Containment.none else {
                throw .invalid(
                    "child.containment must be .group or .session: a call's child leads a group or a session")
            }
            guard child.diesWithParent, !child.allowsThreads else {
                throw .invalid(
                    "child.diesWithParent must be true and child.allowsThreads false: "
                        + "calls' children die with the zygote, which has one thread")
            }
        }
    }

    /// Callbacks that customise a `Zygote`. Each one's documentation says in which process it runs.
    public struct Hooks {
        /// Runs in the zygote, before its first call. What is done here is already done in every child: tables read,
        /// formatters made, the handlers' own code run once. It must not start a thread, nor a Task, which would never
        /// run on the main actor. It runs on a thread of its own, which ends before the first fork, and its
        /// thread-local variables with it. If it throws, the start of the zygote fails.
        public var beforeFork: () throws -> Void = {}
        /// Runs in the host when a call is begun, on the thread or in the task that begins it, and must not block. What
        /// it returns goes with the call, to `Request.context`. It is for what the whole program needs in each call,
        /// such as a trace's ID; `propagateContext` of ForkingIntegrations sets it.
        ///
        /// Names and values, with 4 bytes more for each pair, may have 8 KiB together; the longest of more are left
        /// out, with an event. By default there are none, which adds no byte to a call.
        public var context: @Sendable () -> [String: String] = { [:] }
        /// Runs in each call's child, and must run the handler by calling its second argument once. It can bind
        /// task-local values, which `async` handlers see too. What it throws is thrown to the caller. Nil: the handler
        /// runs by itself.
        public var aroundHandler: ((Request, () throws -> Void) throws -> Void)?
        /// Runs in the host when something happens, on the thread that noticed it, and must not block. The default
        /// writes one line to stderr for an event that is trouble, except for ended calls, whose callers get the error.
        public var onEvent: @Sendable (Event) -> Void = { event in
            if case .finished = event { return }
            if event.isTrouble { Lines.tell(event.description) }
        }

        /// The defaults: trouble is written to stderr.
        public init() {}
    }

    /// The names of all handlers.
    public let handlerNames: [String]
    /// The names of the handlers of isolates, and how these take calls.
    let isolates: [String: IsolateManner]
    let client: ZygoteClient
    let configuration: Configuration
    private let context: @Sendable () -> [String: String]

    /// Forks the zygote and waits until it is ready. fork(2). Call this once in a process, as the first act of `main`,
    /// synchronous or `async`: before any thread, Task or queue exists, because these do not survive a fork.
    ///
    /// In a process that was started to replace a zygote, this call never returns.
    ///
    /// - Parameters:
    ///   - configuration: how many calls may run and wait, and how children are set up.
    ///   - hooks: callbacks.
    ///   - register: registers the handlers. Runs in this process, before the fork; in a replacement zygote, again
    ///     there.
    /// - Throws: `ForkingError.Code.threads`, with their number, if this process has more than one thread; `.invalid`
    ///   if the configuration is invalid, or `register` or `Hooks.beforeFork` threw; `.system` if a system call failed.
    public static func start(
        configuration: Configuration = Configuration(), hooks: Hooks = Hooks(),
        _ register: (inout Handlers) throws -> Void
    ) throws(ForkingError) -> Zygote {
        forkcore_occupy_standard_descriptors()
        var handlers = Handlers()
        do { try register(&handlers) } catch { throw .invalid("the zygote's handlers: \(error)") }
        try configuration.check()
        if let control = ZygoteClient.inheritedControl() {
            forkcore_exit(ZygoteProcess.run(control, of: getppid(), configuration, hooks, handlers))
        }
        guard isStarted.compareExchange(expected: false, desired: true, ordering: .relaxed).exchanged else {
            throw .invalid("this process already has a zygote: start only one, with all handlers")
        }
        var isDone = false
        defer { if !isDone { isStarted.store(false, ordering: .relaxed) } }
        try Threads.requireOne()
        guard !forkcore_dispatch_has_threads() else {
            throw .invalid(
                "a Task or a queue has been used in this process, and a child's would wait for their threads for ever: "
                    + "move Zygote.start before them, to the beginning of main")
        }
        try configuration.child.tryConfinement()
        let client = try ZygoteClient(configuration, hooks, handlers)
        isDone = true
        return Zygote(client, configuration, hooks, handlers.all)
    }

    /// At most one zygote a process: a replacement process could not tell which of several it replaces.
    private static let isStarted = Atomic(false)

    private init(
        _ client: ZygoteClient, _ configuration: Configuration, _ hooks: Hooks, _ handlers: [Handlers.Entry]
    ) {
        self.client = client
        self.configuration = configuration
        context = hooks.context
        handlerNames = handlers.map(\.name)
        let manners = handlers.compactMap { entry in entry.isolate.map { (entry.name, $0) } }
        isolates = Dictionary(uniqueKeysWithValues: manners)
    }

    // MARK: Calls

    /// Runs a handler in a child and waits for its reply. Host, any thread that may block. A task awaits `run` of
    /// ForkingAsync instead.
    ///
    /// - Parameters:
    ///   - name: the handler's name.
    ///   - bytes: its input, which may be gigabytes: the library sets no limit.
    ///   - descriptors: at most 252 descriptors, which are passed to the child and stay open here. unix(7), SCM_RIGHTS.
    ///   - count: the number of descriptors that the reply must have. With more or fewer the call fails, and they are
    ///     closed.
    ///   - deadline: the longest duration from now on, waiting for a slot included; then the child is killed.
    ///   - limits: the child's resource limits; nil means those of `Configuration.child`.
    ///   - maxReplyBytes: the maximum size of the reply in bytes; nil means that of the configuration.
    /// - Throws: `ForkingError`: `.full`, `.zygoteLost`, `.handlerThrew`, `.childEnded`, `.deadlineExceeded` and others
    ///   say what became of the call.
    @available(*, noasync, message: "await run(_:_:), of ForkingAsync")
    public func runAndWait(
        _ name: String, _ bytes: [UInt8] = [], descriptors: [FileDescriptor] = [], expecting count: Int = 0,
        deadline: Duration? = nil, limits: ResourceLimits? = nil, maxReplyBytes: Int? = nil
    ) throws(ForkingError) -> Reply {
        try begin(
            name, bytes, descriptors: descriptors, expecting: count, deadline: deadline, limits: limits,
            maxReplyBytes: maxReplyBytes
        ).wait()
    }

    /// Starts a call without waiting for it: see `Call`. The parameters are those of `runAndWait`. Host, any thread.
    ///
    /// While a call waits for a slot it uses no descriptor of its own, but duplicates the descriptors that it passes.
    /// It is rejected if all waiting calls together would then hold more than a quarter of this process's
    /// RLIMIT_NOFILE.
    public func begin(
        _ name: String, _ bytes: [UInt8] = [], descriptors: [FileDescriptor] = [], expecting count: Int = 0,
        deadline: Duration? = nil, limits: ResourceLimits? = nil, maxReplyBytes: Int? = nil
    ) throws(ForkingError) -> Call {
        let request = CallMessage(.request, bytes, descriptors: descriptors.map(\.rawValue))
        return try begin(
            name, request, expecting: count, deadline: deadline, limits: limits, maxReplyBytes: maxReplyBytes)
    }

    private func begin(
        _ name: String, _ request: CallMessage, expecting count: Int = 0, deadline: Duration?, limits: ResourceLimits?,
        maxReplyBytes: Int? = nil
    ) throws(ForkingError) -> Call {
        let begun = Instant.now
        guard handlerNames.contains(name) else { throw .noHandler(name, known: handlerNames) }
        guard isolates[name] == nil else { throw .invalid("'\(name)' is an isolate's handler: start it by isolate") }
        let limits = limits ?? configuration.child.limits
        try limits.check()
        var request = request
        request.head.handler = HandlerName(name)
        request.head.limits = limits.inC
        let longest = maxReplyBytes ?? configuration.maxReplyBytes
        try requirePositive("deadline", deadline)
        guard (0...CallMessage.mostDescriptors).contains(count), longest >= 0 else {
            throw .invalid(
                "expecting is \(count), and must be from 0 to \(CallMessage.mostDescriptors); "
                    + "maxReplyBytes is \(longest), and cannot be negative")
        }
        try request.checkDescriptors()
        let context = CallContext(context())
        request.add(context)
        if context.leftOut > 0 { client.onEvent(.contextCut(handler: name, leftOut: context.leftOut)) }
        let pending = PendingCall(channel: CallChannel(request, expecting: count), name: name)
        do throws(ForkingError) {
            try client.admit(pending)
            // The request was sent by `admit`, which may have failed.
            if let error = pending.channel.standing.failure { throw error }
        } catch {
            pending.channel.close()
            // `admit` has reported `.rejected`, so there is no `.finished`.
            if error.code == .full { throw error }
            client.finished(pending.id, name, begun, .failure(error), nil)
            throw error
        }
        return Call(pending.channel, client, pending.id, name: name, begun, deadline: deadline, longest: longest)
    }

    /// Hands a connected socket off to a child, which serves it until it is closed. `Call.poll()` or `wait()` then
    /// returns an empty reply, or throws if the child ended otherwise. Keep the call until then: releasing it kills the
    /// child.
    ///
    /// Host, any thread. The host's copy of the connection is closed, even if this throws. A client that has already
    /// closed its end is handed off all the same, because the child can still read what it sent.
    public func handOff(
        _ name: String, _ connection: consuming Connection, _ bytes: [UInt8] = [], deadline: Duration? = nil,
        limits: ResourceLimits? = nil
    ) throws(ForkingError) -> Call {
        let peer = connection.peer.bytes
        var request = CallMessage(.request, bytes, descriptors: [connection.descriptor.rawValue])
        request.lead = peer
        request.head.peer = UInt16(peer.count)
        return try begin(name, request, deadline: deadline, limits: limits)
    }

    // MARK: Stopping

    /// Stops the zygote for good, without waiting. With `.drain`, no new calls are accepted, calls that were begun go
    /// on, and the zygote ends after the last one. With `.terminate` or `.kill`, the zygote kills its children with
    /// SIGKILL and exits, and their calls fail. Host, any thread.
    public func stop(_ step: StopStep = .drain) {
        if step == .drain { client.drain() } else { client.end() }
    }

    /// Drains the zygote and waits for it to end. After `timeout` the zygote and its children are killed, which takes
    /// milliseconds, and 3 seconds at most. Host, any thread that may block.
    ///
    /// - Returns: whether all calls ended before `timeout`.
    @available(*, noasync, message: "await shutDown(), of ForkingAsync")
    @discardableResult
    public func shutDownAndWait(timeout: Duration = .seconds(30)) -> Bool {
        stop()
        if client.awaitEnd(timeout) { return true }
        stop(.kill)
        _ = client.awaitEnd(.seconds(3))
        return false
    }

    /// The zygote's process ID; nil if there is no zygote at the moment.
    public var pid: ProcessID? { client.processID }
    /// The state of the calls and of the zygote now.
    public var status: Status { client.statistics }
    /// Readable when the zygote has ended or sent a message: then call `poll()`. Nil while there is no zygote. Each new
    /// zygote has a new descriptor.
    ///
    /// Only for a host with one thread: with more, a call on another thread may find that the zygote has ended and
    /// close this descriptor, whose number may then be reused. Hosts with threads use `ZygoteService` of
    /// ForkingIntegrations.
    public var descriptor: FileDescriptor? { client.descriptor < 0 ? nil : FileDescriptor(rawValue: client.descriptor) }

    /// A duplicate of `descriptor`, for a caller that waits on a thread or queue of its own; nil if there is no zygote,
    /// or no free descriptor.
    package func duplicateDescriptor() -> FileDescriptor? { client.duplicate() }
    /// Whether the zygote was drained or killed, and has ended.
    package var hasEnded: Bool { client.hasEnded }

    /// Starts a new zygote if this one has ended and the pause after failures has passed. Host, any thread.
    ///
    /// Every call does the same. To have the zygote back before the next call, call this when `descriptor` is readable.
    /// - Returns: how long to wait before the next call of this; nil if there is a zygote, or if it was stopped.
    @discardableResult
    public func poll() -> Duration? { client.look() }
}
