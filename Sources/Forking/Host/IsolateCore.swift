// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization
import SystemPackage

/// Host, any thread: an isolate, from its start until its last child has ended.
///
/// `IsolateQueue` decides. `change` changes the state under the lock, and then, without it, does what is to be done:
/// sends, calls back, reports. Where calls are served in order and a thread waits for the one in flight, that thread
/// receives; elsewhere the thread of `Isolates` does, unless the reply comes at once: see `ReplySpin`.
final class IsolateCore: Sendable {
    let number: UInt64
    let name: String
    let client: ZygoteClient
    let configuration: Zygote.Isolate.Configuration
    let manner: IsolateManner
    /// The arguments.
    let request: CallMessage
    private let startIn: Duration?
    private let maxReplyBytes: Int
    private let maxWaiting: Int
    private let state: Mutex<State>
    /// Incremented when it has started, and when it is over.
    let word = UnsafeWord()
    private let spin = ReplySpin()

    struct Child {
        let pending: PendingCall
        let poll: IsolatePoll
        /// The channel, once the child has its slot. It is open as long as this value exists.
        var descriptor: Int32 = -1
        var started: Instant?
        /// Why it could not start.
        var failure: ForkingError?
    }

    struct State {
        var queue: IsolateQueue
        /// Those that have not ended, by number.
        var calls: [UInt64: IsolateCall] = [:]
        var child: Child?
        /// The call whose thread receives.
        var receiver: UInt64?
        /// The call whose thread would spin if no other call were in flight.
        var spinner: UInt64?
        /// Whether the thread of `Isolates` is woken by input, and not only by the end of the channel.
        var isInputWatched = false
        /// The channel has ended, but is still to be read to its end.
        var hasHungUp = false
        var start: Result<Void, ForkingError>?
        var onStart: [@Sendable (Result<Void, ForkingError>) -> Void] = []
        var onOver: [@Sendable () -> Void] = []
        var isOver = false
        var cause: ForkingError?
        var lastStatus: ExitStatus?

        /// The channel has ended while a caller's thread was to receive, and that has left.
        var isForsaken: Bool { hasHungUp && receiver == nil && child != nil }
    }

    /// What is to be done without the lock.
    struct Effects {
        var child: Child?
        var sends: [IsolateCall] = []
        var cancels: [UInt64] = []
        var order: IsolateQueue.Order?
        /// The child's channel is of no use any more.
        var broken: (PendingCall.ID, ForkingError)?
        var ended: (Child, Zygote.IsolateReport)?
        var finished: [(IsolateCall, Result<Zygote.Reply, ForkingError>)] = []
        var rejected = false
        var hasStarted = false
        /// What became of the first start.
        var start: Result<Void, ForkingError>?
        var onStart: [@Sendable (Result<Void, ForkingError>) -> Void] = []
        var onOver: [@Sendable () -> Void] = []
        var isOver = false
        var needsTurn = false
    }

    static func make(
        _ client: ZygoteClient, _ zygote: Zygote.Configuration, _ configuration: Zygote.Isolate.Configuration,
        _ manner: IsolateManner, _ name: String, _ request: CallMessage, startIn: Duration?
    ) throws(ForkingError) -> IsolateCore {
        try client.isolates.add { number in
            IsolateCore(number, client, zygote, configuration, manner, name, request, startIn)
        }
    }

    private init(
        _ number: UInt64, _ client: ZygoteClient, _ zygote: Zygote.Configuration,
        _ configuration: Zygote.Isolate.Configuration, _ manner: IsolateManner, _ name: String,
        _ request: CallMessage, _ startIn: Duration?
    ) {
        (self.number, self.client, self.name, self.request) = (number, client, name, request)
        (self.configuration, self.manner, self.startIn) = (configuration, manner, startIn)
        (maxReplyBytes, maxWaiting) = (zygote.maxReplyBytes, zygote.maxWaiting)
        let rules = configuration.rules(manner, maxWaiting: zygote.maxWaiting)
        state = Mutex(State(queue: IsolateQueue(rules, startBy: startIn.map { .now + $0 })))
    }

    // MARK: Calls

    func makeCall(
        _ bytes: [UInt8], _ descriptors: [FileDescriptor], _ count: Int, _ deadline: Duration?, _ maxReplyBytes: Int?,
        id: UInt64? = nil, traits: Zygote.Isolate.CallTraits = [],
        _ body: (@Sendable (Result<Zygote.Reply, ForkingError>) -> Void)? = nil
    ) throws(ForkingError) -> IsolateCall {
        let longest = maxReplyBytes ?? self.maxReplyBytes
        try requirePositive("deadline", deadline)
        guard (0...CallMessage.mostDescriptors).contains(count), longest >= 0 else {
            throw .invalid(
                "expecting is \(count), and must be from 0 to \(CallMessage.mostDescriptors); "
                    + "maxReplyBytes is \(longest), and cannot be negative")
        }
        var request = CallMessage(.call, bytes, descriptors: descriptors.map(\.rawValue))
        try request.checkDescriptors()
        try request.duplicateDescriptors()
        request.head.call = id ?? IsolateCall.nextID()
        request.head.descriptors = UInt32(count)
        return IsolateCall(
            request.head.call, request, deadline: deadline, longest: longest, traits: traits, body)
    }

    func begin(_ call: IsolateCall) {
        let spins = call.body != nil && !call.isStanding && spin.isWorthwhile()
        change { state, effects, now in
            if state.queue.isClosing && !call.isStanding || state.queue.isOver {
                return finish(call, .failure(state.cause ?? .shutDown), &state, &effects)
            }
            guard state.queue.hasRoom else {
                effects.rejected = true
                return finish(call, .failure(.full(children: 1, waiting: maxWaiting)), &state, &effects)
            }
            state.calls[call.id] = call
            state.queue.append(call.id, isStanding: call.isStanding)
            if spins { state.spinner = call.id }
            if call.body != nil, let until = call.until { client.isolates.noteDue(until) }
        }
        if spins { spin(for: call) }
    }

    private func spin(for call: IsolateCall) {
        let child = state.withLock { state in
            state.spinner = nil
            return state.receiver == call.id ? state.child : nil
        }
        guard let child else { return }
        if spin.wait(for: child.descriptor) { receive(for: call.id) }
        change { state, _, _ in
            if state.receiver == call.id { state.receiver = nil }
        }
    }

    private enum Step {
        case done(Result<Zygote.Reply, ForkingError>)
        /// This thread receives.
        case receive(Child)
        /// It waits for the word to change.
        case sleep(UInt32)
    }

    /// Begins a call, and blocks until it has ended.
    func run(_ call: IsolateCall) -> Result<Zygote.Reply, ForkingError> {
        begin(call)
        while true {
            let step: Step = state.withLock { state in
                if let outcome = call.outcome { return .done(outcome) }
                if state.receiver == call.id, let child = state.child { return .receive(child) }
                return .sleep(call.word.value)
            }
            var rest: Duration?
            if case .done = step {
            } else if let until = call.until {
                let left = until - .now
                guard left > .zero else {
                    cancel(call.id, .deadlineExceeded(call.deadline!))
                    continue
                }
                rest = left
            }
            switch step {
            case .done(let outcome): return outcome
            case .receive(let child):
                if !spin.isWorthwhile() || !spin.wait(for: child.descriptor) {
                    _ = try? waitUntilReadable(child.descriptor, atMost: rest)
                }
                receive(for: call.id)
            case .sleep(let value): call.word.wait(while: value, atMost: rest ?? .seconds(3600))
            }
        }
    }

    /// Nobody waits for a call any more.
    func cancel(_ id: UInt64, _ error: ForkingError) {
        change { state, effects, now in withdraw(id, error, &state, &effects, now) }
    }

    private func withdraw(
        _ id: UInt64, _ error: ForkingError, _ state: inout State, _ effects: inout Effects, _ now: Instant
    ) {
        guard let call = state.calls[id] else { return }
        switch state.queue.withdraw(id, at: now) {
        case .none: return
        case .waited: break
        case .inFlight: if manner.isCooperative { effects.cancels.append(id) }
        }
        finish(call, .failure(error), &state, &effects)
    }

    /// A call has ended.
    func finish(
        _ call: IsolateCall, _ outcome: Result<Zygote.Reply, ForkingError>, _ state: inout State,
        _ effects: inout Effects
    ) {
        state.calls[call.id] = nil
        if state.receiver == call.id { state.receiver = nil }
        call.outcome = outcome
        effects.finished.append((call, outcome))
    }

    /// Whether the child was to be told that nobody waits for a call any more.
    func isLate(_ id: UInt64) -> Bool { state.withLock { $0.queue.isLate(id) } }

    // MARK: The isolate

    /// Starts the first child.
    func open() throws(ForkingError) {
        guard client.isOpen else {
            change { state, _, _ in
                state.cause = .shutDown
                state.queue.giveUp()
            }
            throw .shutDown
        }
        turn()
    }

    /// Accepts no further calls. After `timeout` the child is killed.
    func close(timeout: Duration?) {
        change { state, _, now in state.queue.close(by: timeout.map { now + $0 }) }
    }

    /// Nobody can call any more.
    func release() { change { state, _, _ in state.queue.release() } }

    var lastStatus: ExitStatus? { state.withLock { $0.lastStatus } }
    var cause: ForkingError? { state.withLock { $0.cause } }

    var status: Zygote.Isolate.Status {
        state.withLock { state in
            var status = Zygote.Isolate.Status()
            status.running = state.queue.inFlight.count
            status.waiting = state.queue.waiting.count
            status.calls = state.queue.calls
            status.starts = state.queue.starts
            if case .running = state.queue.phase { status.isRunning = true }
            status.hasEnded = state.isOver
            return status
        }
    }

    func waitUntilStarted() throws(ForkingError) {
        while true {
            let value = word.value
            if let start = state.withLock({ $0.start }) { return try start.get() }
            word.wait(while: value, atMost: .seconds(3600))
        }
    }

    func waitUntilOver() {
        while true {
            let value = word.value
            if state.withLock({ $0.isOver }) { return }
            word.wait(while: value, atMost: .seconds(3600))
        }
    }

    func whenStarted(_ body: @escaping @Sendable (Result<Void, ForkingError>) -> Void) {
        let start = state.withLock { state in
            if state.start == nil { state.onStart.append(body) }
            return state.start
        }
        if let start { body(start) }
    }

    func whenOver(_ body: @escaping @Sendable () -> Void) {
        let isOver = state.withLock { state in
            if !state.isOver { state.onOver.append(body) }
            return state.isOver
        }
        if isOver { body() }
    }

    // MARK: Changes

    /// Changes the state under the lock. Then, without it, does what follows from the change.
    func change<R>(_ body: (inout State, inout Effects, Instant) -> R) -> R {
        var effects = Effects()
        let now = Instant.now
        let result = state.withLock { state in
            let result = body(&state, &effects, now)
            settle(&state, &effects, now)
            return result
        }
        perform(effects, now)
        return result
    }

    private func settle(_ state: inout State, _ effects: inout Effects, _ now: Instant) {
        effects.order = state.queue.order(at: now)
        while let id = state.queue.next(at: now) {
            guard let call = state.calls[id] else { continue }
            call.sent = now
            effects.sends.append(call)
            let isByCaller =
                call.body == nil ? !manner.isCooperative : state.spinner == id && state.queue.isOnlyCall(id)
            state.receiver = isByCaller ? id : nil
            watch(input: !isByCaller, &state)
        }
        if state.receiver == nil, state.queue.awaitsReplies { watch(input: true, &state) }
        effects.child = state.child
        if state.queue.phase == .due || state.isForsaken { effects.needsTurn = true }
        if let due = state.queue.due { client.isolates.noteDue(due) }
        guard state.queue.isOver, !state.isOver else { return }
        state.isOver = true
        for id in state.queue.takeWaiting() {
            if let call = state.calls[id] { finish(call, .failure(state.cause ?? .shutDown), &state, &effects) }
        }
        if state.start == nil { noteStart(.failure(state.cause ?? .cancelled), &state, &effects) }
        effects.isOver = true
        effects.onOver = state.onOver
        state.onOver = []
    }

    func noteStart(_ result: Result<Void, ForkingError>, _ state: inout State, _ effects: inout Effects) {
        guard state.start == nil else { return }
        state.start = result
        effects.start = result
        effects.onStart = state.onStart
        state.onStart = []
    }

    /// What a first start fails with that took too long; nil if it has no time limit.
    var startTimeout: ForkingError? { startIn.map { .deadlineExceeded($0) } }

    func watch(input: Bool, _ state: inout State) {
        guard let child = state.child, child.descriptor >= 0, state.isInputWatched != input else { return }
        state.isInputWatched = input
        child.poll.watch(child.descriptor, number, input: input)
    }

    /// Does what is due, apart from receiving. The thread of `Isolates`; any thread at the start.
    func turn() {
        let (isIdle, isForsaken) = state.withLock { state in
            switch state.queue.phase {
            case .due, .pausing: (true, false)
            default: (false, state.isForsaken)
            }
        }
        if isForsaken { receive() }
        if isIdle, !client.isOpen {
            change { state, _, _ in
                state.cause = state.cause ?? .shutDown
                state.queue.giveUp()
            }
        }
        tendChild()
        var next: Instant?
        change { state, effects, now in
            for call in Array(state.calls.values) where call.body != nil {
                guard let until = call.until else { continue }
                if until <= now {
                    withdraw(call.id, .deadlineExceeded(call.deadline!), &state, &effects, now)
                } else {
                    next = earlier(next, until)
                }
            }
        }
        if let next { client.isolates.noteDue(next) }
    }

    /// Takes the child's start, if one is due: then no other thread starts one.
    func takeStart() -> PendingCall? {
        state.withLock { state in
            guard state.queue.phase == .due, state.child == nil, let poll = client.isolates.poll else { return nil }
            state.queue.noteStarting()
            let pending = PendingCall(channel: CallChannel(request, expecting: 0), name: name, isIsolate: true)
            state.child = Child(pending: pending, poll: poll)
            return pending
        }
    }

    /// The child that has no channel yet, if there is one.
    var childToLookFor: PendingCall? {
        state.withLock { state in
            guard let child = state.child, child.descriptor < 0 else { return nil }
            return child.pending
        }
    }
}
