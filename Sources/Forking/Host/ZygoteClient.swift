// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization
import SystemPackage

/// A call that needs a child.
struct PendingCall: Identifiable {
    typealias ID = UInt64
    private static let next = Atomic<ID>(0)

    let id = next.add(1, ordering: .relaxed).newValue
    let channel: CallChannel
    let name: String
    /// Whether the child is an isolate's, which serves calls of its own.
    var isIsolate = false
}

/// Host, any thread: the only way to the zygote. Holds the running and the waiting calls, and starts the zygote.
///
/// It has no thread of its own: each thread that begins, polls or ends a call also does the work that is due.
final class ZygoteClient: Sendable {
    private let configuration: Zygote.Configuration
    let onEvent: @Sendable (Zygote.Event) -> Void
    /// Those that have not ended.
    let isolates = Isolates()
    private let state: Mutex<State>

    /// Accessed under the lock only, so that one thread at a time uses the table, as tables require.
    struct State: @unchecked Sendable {
        var queue: CallQueue<PendingCall>
        /// The host's end of the zygote's socket; nil while there is none.
        var control: ParentDescriptor?
        /// The table whose only child is the zygote; nil if there is none.
        var table: ChildTable?
        /// A new zygote that has not called execve yet.
        var beginning: BeginningZygote?
        /// Zygotes that were told to end, or have closed their socket, and have not been reaped.
        var ending: [EndingZygote] = []
        let successor: Program
        /// Calls that have just got their slots. Their requests are sent after the lock is released.
        var started: [PendingCall] = []
        /// Children forked ahead, and the host's ends of their channels.
        var warm: WarmChildren
        var warmChannels: [Int32] = []
        /// Whether the kernel refuses descriptors that children attach to what they send there.
        var warmRefuseRights = false
        var counts = ZygoteCounts()
        /// The slots of isolates' children.
        var isolates: Set<PendingCall.ID> = []
        var events: [Zygote.Event] = []
    }

    /// Forks the first zygote, and waits until it is ready.
    init(
        _ configuration: Zygote.Configuration, _ hooks: Zygote.Hooks, _ handlers: Zygote.Handlers
    ) throws(ForkingError) {
        self.configuration = configuration
        onEvent = hooks.onEvent
        let table = try ChildTable(maxChildren: 1, reaping: .pidfd)
        let control = try Self.fork(in: table, configuration, hooks, handlers)
        var counts = ZygoteCounts()
        counts.begin(try Self.awaitReady(control, table))
        var queue = CallQueue<PendingCall>(maxRunning: configuration.maxChildren, maxWaiting: configuration.maxWaiting)
        queue.noteStarted(at: .now)
        queue.noteReady()
        var warm = WarmChildren(wanted: configuration.warmChildren)
        warm.noteStarted()
        let state = State(
            queue: queue, control: control, table: table, successor: Self.successor(), warm: warm, counts: counts)
        let pid = table.children.first?.pid
        self.state = Mutex(state)
        if let pid { onEvent(.started(pid)) }
    }

    deinit {
        end()
        _ = awaitEnd(.seconds(3))  // no other code reaps it
    }

    static var options: ChildOptions {
        var options = ChildOptions()
        options.diesWithParent = false  // it would die with the thread that forked it; see ZygoteProcess.host
        options.containment = .group  // a replacement, being a program, would lead a session, unlike the first
        return options
    }

    /// Forks the first zygote. Returns the host's end of its socket, which is the only copy; the other end is open in
    /// the zygote alone.
    private static func fork(
        in table: ChildTable, _ configuration: Zygote.Configuration, _ hooks: Zygote.Hooks, _ handlers: Zygote.Handlers
    ) throws(ForkingError) -> ParentDescriptor {
        let pair = try DescriptorPair()
        let control = ParentDescriptor(pair.ours.release())
        let (theirs, host) = (pair.theirs.rawValue, forkcore_process())
        try table.fork(options: options) { ZygoteProcess.run(theirs, of: host, configuration, hooks, handlers) }
        return control
    }

    private static func awaitReady(
        _ control: ParentDescriptor, _ table: ChildTable
    ) throws(ForkingError) -> SharedTally {
        while try !waitUntilReadable(control.rawValue) {}
        let message = try? CallMessage.receive(over: control.rawValue)
        if let message, message.kind == .ready { return try tally(in: message) }
        var status: ExitStatus?
        table.onExit = { status = $0.status }
        table.killAll()
        _ = try table.wait(atMost: .seconds(10))
        throw message.map(notReady)
            ?? .invalid(
                "the zygote ended in its beforeFork hook, before it was ready: \(status?.description ?? "unseen")")
    }

    static func tally(in message: CallMessage) throws(ForkingError) -> SharedTally {
        guard let file = message.descriptors.first else { throw .system(call: "recvmsg", .tooManyOpenFiles) }
        let owned = OwnedDescriptor(file)
        return try SharedTally(owned.rawValue, isZygote: false)
    }

    static func notReady(_ message: CallMessage) -> ForkingError {
        .invalid("the zygote's beforeFork failed: \(ForkingError.printable(message.texts(1)[0]))")
    }

    // MARK: Calls

    /// Throws if no further call may run or wait, before anything is allocated for the call.
    func requireRoom(_ name: String) throws(ForkingError) {
        try change { state throws(ForkingError) in try requireRoom(&state, name) }
    }

    private func requireRoom(_ state: inout State, _ name: String) throws(ForkingError) {
        guard state.queue.phase == .open else { throw .shutDown }
        guard state.queue.hasRoom else {
            state.events.append(.rejected(handler: name))
            throw .full(children: configuration.maxChildren, waiting: configuration.maxWaiting)
        }
    }

    /// Gives a call a slot, or queues it.
    func admit(_ pending: PendingCall) throws(ForkingError) {
        try change { state throws(ForkingError) in
            try requireRoom(&state, pending.name)
            try requireZygote(&state)
            state.queue.append(pending)
            let shortage = advance(&state)
            guard let last = state.queue.waiting.last, last.id == pending.id else { return }
            do throws(ForkingError) {
                // The call is first in the queue and still has no slot. EAGAIN is not an error: the zygote's socket is
                // full of fork requests, which it will receive.
                if shortage != 0, shortage != EAGAIN, state.queue.waiting.count == 1 {
                    throw ForkingError.system(call: "socketpair", Errno(rawValue: shortage))
                }
                try hold(pending, state)
            } catch {
                _ = state.queue.withdraw(pending.id)
                throw error
            }
        }
    }

    /// Duplicates the descriptors that a waiting call passes, because the caller may close its own.
    private func hold(_ pending: PendingCall, _ state: State) throws(ForkingError) {
        try pending.channel.holdDescriptors()
        guard pending.channel.heldDescriptors > 0 else { return }
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        let held = state.queue.waiting.reduce(0) { $0 + $1.channel.heldDescriptors }
        guard UInt64(held) <= limit.rlim_cur / 4 else {
            throw .full(children: configuration.maxChildren, waiting: state.queue.waiting.count - 1)
        }
    }

    /// A call has ended, or its caller has dropped it.
    func finished(
        _ id: PendingCall.ID, _ name: String, _ begun: Instant, _ outcome: Result<Zygote.Reply, ForkingError>,
        _ message: CallMessage?
    ) {
        var failure: ForkingError?
        if case .failure(let error) = outcome { failure = error }
        let duration = Instant.now - begun
        change { state in
            // Calls that follow must not be lost with the same zygote.
            if failure?.code == .zygoteLost { noticeEnd(&state) }
            let slot = state.queue.finish(id)
            if case .starting = state.queue.zygote { listen(&state) }  // it shares its tally when it is ready
            let report = Zygote.CallReport(
                handler: name, failure: failure, duration: duration, waited: slot.map { $0.since - begun },
                forkTime: message.flatMap { $0.head.forking > 0 ? .nanoseconds($0.head.forking) : nil },
                usage: message.map { ResourceUsage($0.head.usage) }, work: state.counts.takeWork())
            state.events.append(.finished(report))
            advance(&state)
            refill(&state)
        }
    }

    /// Removes a call from the queue. Returns whether it still waited.
    func withdraw(_ id: PendingCall.ID) -> Bool { state.withLock { $0.queue.withdraw(id) } }

    /// Sends fork requests again, after a shortage of descriptors or memory.
    func retry() { change { _ = advance(&$0) } }

    /// Sends fork requests for waiting calls while slots are free. Returns an errno if there was a shortage, else 0.
    @discardableResult
    func advance(_ state: inout State) -> Int32 {
        while let next = state.queue.next {
            switch takeWarm(next, &state) ? 0 : sendRequest(next, state) {
            case 0:
                state.queue.startNext(at: .now)
                if next.isIsolate { state.isolates.insert(next.id) }
                state.started.append(next)
            case let code where Self.shortages.contains(code):
                // No descriptors, or the zygote's socket is full. Every call that ends tries again, and every waiting
                // call that is polled.
                return code
            case ECANCELED: state.queue.dropNext()
            default:
                if state.control != nil { lose(&state) }
                guard (try? requireZygote(&state)) != nil else {
                    giveUp(&state)
                    return 0
                }
            }
        }
        if state.queue.isLastOrderDue { sendDrain(&state) }
        return 0
    }

    private static let shortages = [EAGAIN, ENOBUFS, ENOMEM, ETOOMANYREFS, EMFILE, ENFILE]

    private func sendRequest(_ pending: PendingCall, _ state: State) -> Int32 {
        guard let control = state.control else { return EPIPE }
        var theirs: Int32 = -1
        let code = pending.channel.theirEnd(&theirs)
        guard code == 0 else { return code }
        return send(ForkRequest(.call), [theirs], over: control)
    }

    func send(_ request: ForkRequest, _ descriptors: [Int32] = [], over control: ParentDescriptor) -> Int32 {
        withMutableMessage(request, [], descriptors) { forkcore_message_send(control.rawValue, &$0) }
    }

    /// No zygote can be started: close the channels of all waiting calls.
    func giveUp(_ state: inout State, because error: ForkingError = .lost(nextStart: nil)) {
        for pending in state.queue.giveUp() { pending.channel.fail(error) }
    }

    // MARK: Stopping

    func drain() {
        change { state in
            guard state.queue.drain() else { return }
            advance(&state)
            dropWarm(&state)
            reconcile(&state)
        }
        isolates.drain()
    }

    private func sendDrain(_ state: inout State) {
        if let control = state.control { _ = send(ForkRequest(.drain), over: control) }
    }

    func end() {
        isolates.noteKilled()
        change { state in
            state.queue.kill()
            if state.control != nil { lose(&state, isUnasked: false) }
        }
        isolates.wakeAll()
    }

    var wasKilled: Bool { state.withLock { $0.queue.wasKilled } }

    var hasEnded: Bool {
        change { state in
            listen(&state)
            reconcile(&state)
            return state.queue.phase == .over
        }
    }

    /// Waits for the zygote to end. Returns whether it has.
    func awaitEnd(_ duration: Duration) -> Bool {
        let end = Instant.now + duration
        while !hasEnded {
            let rest = end - .now
            guard rest > .zero else { return false }
            let watched = duplicate()
            defer { try? watched?.close() }
            // With a descriptor, wake up every 500 ms to check whether the zygote must be killed; without one, every 10
            // ms.
            let pause: Duration = watched == nil ? .milliseconds(10) : .milliseconds(500)
            guard (try? waitUntilReadable(watched?.rawValue ?? -1, atMost: min(rest, pause))) != nil else {
                return false
            }
        }
        return true
    }

    func look() -> Duration? {
        change { state in
            guard state.queue.phase != .over else { return }
            try? requireZygote(&state)
            advance(&state)
        }
        return change { state in
            guard state.control == nil, state.queue.phase == .open else { return nil }
            return state.queue.pause(at: .now) ?? (state.beginning == nil ? .zero : Self.briefly)
        }
    }

    var processID: ProcessID? { change { $0.control == nil ? nil : $0.table?.children.first?.pid } }
    var descriptor: Int32 { change { $0.control?.rawValue ?? -1 } }

    /// A duplicate of `descriptor` that the caller must close. Any thread may find that the zygote has ended, and close
    /// the original, whose number may then be reused. If the zygote is ending, this is a descriptor that becomes
    /// readable when it has ended. Nil if there is no zygote, or no free descriptor.
    func duplicate() -> FileDescriptor? {
        change { state in
            let watched = state.control?.rawValue ?? state.ending.first?.table.descriptor.rawValue
            let copy = watched.map { fcntl($0, F_DUPFD_CLOEXEC, 0) } ?? -1
            return copy < 0 ? nil : FileDescriptor(rawValue: copy)
        }
    }

    var statistics: Zygote.Status {
        change { state in
            listen(&state)
            let isolates = state.isolates.count { state.queue.isRunning($0) }
            return Zygote.Status(
                running: state.queue.runningCount - isolates, waiting: state.queue.waiting.count, isolates: isolates,
                warm: state.warm.ready, children: state.control == nil ? 0 : Int(state.counts.tally.alive),
                forks: Int(state.counts.tally.forked), reaped: Int(state.counts.tally.reaped),
                reapTime: .nanoseconds(state.counts.tally.reaping))
        }
    }

    /// Changes the state under the lock. Then, without it, sends requests, reports events, and waits for the execve of
    /// a zygote that `body` started.
    func change<R, E: Error>(_ body: (inout State) throws(E) -> R) throws(E) -> R {
        var events: [Zygote.Event] = []
        var started: [PendingCall] = []
        var beginning: BeginningZygote?
        defer {
            sendRequests(of: started)
            events.forEach(onEvent)
            if let beginning { finishStart(of: beginning) }
        }
        return try state.withLock { (state) throws(E) -> R in
            defer {
                events = state.events
                state.events = []
                started = state.started
                state.started = []
                if state.beginning?.isAwaited == false {
                    state.beginning?.isAwaited = true
                    beginning = state.beginning
                }
            }
            reconcile(&state)
            return try body(&state)
        }
    }
}
