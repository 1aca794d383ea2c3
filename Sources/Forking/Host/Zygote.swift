// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization
public import SystemPackage

/// A process, forked before this one had threads, that forks again on request: a child for each call, which answers it
/// and ends. What crashes, hangs or leaks there costs that call alone.
///
/// ```swift
/// let zygote = try Zygote.start { handlers in
///     handlers.answer("thumbnail") { request in Zygote.Reply(try thumbnail(of: request.bytes)) }
/// }
/// let reply = try zygote.runAndWait("thumbnail", bytes)
/// ```
///
/// *Host*: this process. It may have any threads, and any heap: neither comes near a fork. *Zygote*: one thread for
/// ever; the host's end, however it comes, ends it. *Child*: one call, or one connection to its end.
///
/// Tasks await `run` and `reply`, of the product and module ForkingAsync; values instead of bytes are ForkingCodable's.
/// A process that a test runner has started has threads: test handlers as functions, and the whole in an executable of
/// its own.
///
/// Should the zygote die, the calls that it had fail with `ForkingError.Code.zygoteLost`, and the next call starts
/// another: this executable anew, with the same arguments and the environment that it had at the start, which becomes
/// the zygote where it comes to `Zygote.start`.
public final class Zygote: Sendable {
    /// How much there can be at once, and how children are set up.
    public struct Configuration: Sendable {
        /// How many children there can be at once.
        public var maxChildren = 40
        /// How many calls can wait for one of their places. They get them in the order in which they came.
        public var maxWaiting = 1000
        /// How many bytes an answer can have at most, unless the call says otherwise: what a child sends is not trusted
        /// to be sensible.
        public var maxReplyBytes = 16 << 20
        /// How calls' children are set up and bounded. Their `containment` is `.group`, or can be `.session`; they die
        /// with the zygote, and are forked from its one thread. `child.limits` are those of calls that name none.
        public var child = ChildOptions()

        /// The defaults, as said at each property.
        public init() {}

        func check() throws(ForkingError) {
            try requireAtLeast1("maxChildren", maxChildren)
            for (name, count) in [("maxWaiting", maxWaiting), ("maxReplyBytes", maxReplyBytes)] where count < 0 {
                throw .invalid("\(name) is \(count), and cannot be negative")
            }
            try child.check()
            guard child.containment != .descendants, child.containment != Containment.none else {
                throw .invalid(
                    "a call's child is in a group or a session of its own: child.containment is .group or .session")
            }
            guard child.diesWithParent, !child.allowsThreads else {
                throw .invalid(
                    "calls' children die with the zygote, which has one thread: "
                        + "child.diesWithParent is true, and child.allowsThreads is false")
            }
        }
    }

    /// Callbacks that customise a `Zygote`. Each says in which process it runs.
    public struct Hooks {
        /// Zygote, before its first call: what is done here is done in each child already. A table read, a formatter
        /// made, the handler's own code run once. It may start no thread (nor a Task: on the main actor that would
        /// never run), and has one of its own, which has ended before the first fork, with all that is thread-local. If
        /// it throws, there is no zygote.
        public var beforeFork: () throws -> Void = {}
        /// Host: something happened. Runs on whichever thread saw it, and should not wait. By default one line on
        /// stderr for what is not as it should be; how calls end is left to who called.
        public var onEvent: @Sendable (Event) -> Void = { event in
            if case .finished = event { return }
            if event.isTrouble { Lines.tell(event.description) }
        }

        /// The defaults: what goes wrong is said on stderr.
        public init() {}
    }

    /// The handlers' names.
    public let handlerNames: [String]
    /// Those of handlers that are `async`.
    private let asynchronous: [String]
    private let client: ZygoteClient
    private let configuration: Configuration

    /// Forks the zygote, which is ready when this returns. To be called as the first act of `main`, synchronous or not:
    /// before any thread, Task or queue, as these cannot be forked; once in a process.
    ///
    /// In a process that was started to be a new zygote, `main` comes no further than here.
    ///
    /// - Parameters:
    ///   - configuration: how much there can be at once, and how children are set up.
    ///   - hooks: what runs besides.
    ///   - register: says what the zygote can do. Runs here, before the fork.
    /// - Throws: `ForkingError.Code.threads`, with their number, if this process has more than one thread already;
    ///   `.invalid` for the configuration, or with what `Hooks.beforeFork` threw; `.system`.
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
            throw .invalid("this process has its zygote already: start one, with all the handlers")
        }
        var isDone = false
        defer { if !isDone { isStarted.store(false, ordering: .relaxed) } }
        try Threads.requireOne()
        guard !forkcore_dispatch_has_threads() else {
            throw .invalid(
                "a Task or a queue has been used in this process, and a child's would wait for their threads for ever: "
                    + "move Zygote.start before them, to the beginning of main")
        }
        let client = try ZygoteClient(configuration, hooks, handlers)
        isDone = true
        return Zygote(client, configuration, handlers.all)
    }

    /// A second one could not be told from the first when it is started again.
    private static let isStarted = Atomic(false)

    private init(_ client: ZygoteClient, _ configuration: Configuration, _ handlers: [Handlers.Entry]) {
        self.client = client
        self.configuration = configuration
        handlerNames = handlers.map(\.name)
        asynchronous = handlers.filter(\.isAsynchronous).map(\.name)
    }

    // MARK: Calls

    /// Has a child run a handler, and waits for its answer. Any thread that may wait: a task awaits `run` of
    /// ForkingAsync.
    ///
    /// - Parameters:
    ///   - name: the handler's.
    ///   - bytes: what it is given; up to some gigabytes, without a limit here.
    ///   - descriptors: these are passed on, at most 252, and stay open here.
    ///   - count: how many descriptors the answer is to have: one with more or fewer is none, and what came is closed.
    ///   - deadline: how long it may take from now on, waiting included; then the child is killed.
    ///   - limits: what the child may use; nil for what `Configuration.child` says.
    ///   - maxReplyBytes: how many bytes the answer can have; nil for what the configuration says.
    /// - Throws: `ForkingError`, which tells what became of the call.
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

    /// The same, without waiting: see `Call`.
    ///
    /// A call that waits for a place takes no descriptor for itself. It has duplicates of those that it passes on, and
    /// is refused where those of all that wait would be more than a quarter of what this process can have.
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
        let limits = limits ?? configuration.child.limits
        try limits.check()
        if asynchronous.contains(name) { try limits.requireRoomForTasks(in: name, request.descriptors.count) }
        var forkRequest = ForkRequest()
        forkRequest.limits = limits.inC
        let longest = maxReplyBytes ?? configuration.maxReplyBytes
        try requirePositive("deadline", deadline)
        guard (0...CallMessage.mostDescriptors).contains(count), longest >= 0 else {
            throw .invalid(
                "an answer has 0 to \(CallMessage.mostDescriptors) descriptors, and 0 bytes or more at most: "
                    + "not \(count), and \(longest)")
        }
        try request.checkDescriptors()
        let pending = PendingCall(channel: CallChannel(request, expecting: count), request: forkRequest, name: name)
        do throws(ForkingError) {
            try client.admit(pending)
            // Only now could it be sent.
            if let error = pending.channel.standing.failure { throw error }
        } catch {
            pending.channel.close()
            // That one was refused is an event of its own.
            if error.code == .full { throw error }
            client.finished(pending.id, name, begun, .failure(error), nil)
            throw error
        }
        return Call(pending.channel, client, pending.id, name: name, begun, deadline: deadline, longest: longest)
    }

    /// Hands a connected socket off to a child, which serves it to its end; `Call.poll()` or `wait()` then gives an
    /// empty reply, or throws how it ended otherwise. Keep the call until then: dropped, it has the child killed.
    ///
    /// The host's copy is closed: also if this throws, as what was sent there meanwhile could not be told. A client
    /// that has gone is handed off all the same: what it had sent can be read.
    public func handOff(
        _ name: String, _ connection: consuming Connection, _ bytes: [UInt8] = [], deadline: Duration? = nil,
        limits: ResourceLimits? = nil
    ) throws(ForkingError) -> Call {
        let peer = connection.peer.bytes
        var request = CallMessage(.request, peer + bytes, descriptors: [connection.descriptor.rawValue])
        request.head.peer = UInt32(peer.count)
        return try begin(name, request, deadline: deadline, limits: limits)
    }

    // MARK: Its end

    /// Stops the zygote, without waiting: there will be no other. With `.drain`, no more calls are taken, those that
    /// were begun go on, and the zygote ends after the last of them. With `.terminate` or `.kill`, it and its children
    /// are killed, and calls fail.
    public func stop(_ step: StopStep = .drain) {
        if step == .drain { client.drain() } else { client.end() }
    }

    /// Drains, and waits for the zygote to end; after `timeout` it and its children are killed, which takes
    /// milliseconds, and 3 seconds at most.
    ///
    /// - Returns: whether all had ended by themselves.
    @available(*, noasync, message: "await shutDown(), of ForkingAsync")
    @discardableResult
    public func shutDownAndWait(timeout: Duration = .seconds(30)) -> Bool {
        stop()
        if client.awaitEnd(timeout) { return true }
        stop(.kill)
        _ = client.awaitEnd(.seconds(3))
        return false
    }

    /// The zygote's number; nil if there is none at the moment.
    public var pid: ProcessID? { client.processID }
    /// What it has done, as far as its last answer tells.
    public var status: Status { client.statistics }
    /// Readable when the zygote ended or has said something: then call `poll()`. Nil while there is none; another one
    /// for each.
    ///
    /// For a host with one thread. Any call, on any thread, may find the zygote ended, and close this; its number is
    /// then another's. In a host with more, `ZygoteService` of ForkingIntegrations looks after the zygote.
    public var descriptor: FileDescriptor? { client.descriptor < 0 ? nil : FileDescriptor(rawValue: client.descriptor) }

    /// `descriptor`, duplicated for whoever waits on a thread, or a queue, of its own; nil if there is none at the
    /// moment.
    package func duplicateDescriptor() -> FileDescriptor? { client.duplicate() }
    /// Whether it was drained, or killed, and is no more.
    package var hasEnded: Bool { client.hasEnded }

    /// Looks after the zygote: if it has ended, another is started, unless it is too early for that.
    ///
    /// Calls do so too. Who wants it back before the next call calls this when `descriptor` becomes readable.
    /// - Returns: when to look again, if there is none now.
    @discardableResult
    public func poll() -> Duration? { client.look() }
}

extension ResourceLimits {
    /// Refuses what an async handler would be slow with, hang, or trap.
    fileprivate func requireRoomForTasks(in handler: String, _ descriptors: Int) throws(ForkingError) {
        let needs = [
            ("maxMemoryBytes", maxMemoryBytes, Self.minAsyncMemoryBytes),
            ("maxOpenFiles", maxOpenFiles, Self.minAsyncOpenFiles + descriptors),
        ]
        for (name, value, least) in needs {
            guard let value, value < least else { continue }
            throw .invalid("\(name) is \(value), and '\(handler)', which is async, needs at least \(least)")
        }
    }
}
