// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// Host, any thread: an isolate's child, from its start to its end, and what goes over its channel.
extension IsolateCore {
    /// The number of messages that one turn of the thread receives from one child.
    private static let messagesAtOnce = 64
    /// A child that waits for a slot may lack it only for want of descriptors: they are asked for again this often.
    private static let shortage = Duration.milliseconds(500)
    /// The child receives what fills the socket soon.
    private static let fullSocket = Duration.milliseconds(1)

    // MARK: The start

    /// Starts a child if one is due, and finds out whether it has its slot.
    func tendChild() {
        if let pending = takeStart() { start(pending) }
        if let pending = childToLookFor { look(pending) }
    }

    private func start(_ pending: PendingCall) {
        do throws(ForkingError) {
            try client.admit(pending)
            if let error = pending.channel.standing.failure { throw error }
            pending.channel.whenDecided { [weak self] in
                if let self { client.isolates.wake(self) }
            }
        } catch {
            pending.channel.close()
            change { state, effects, now in fail(pending, error, &state, &effects, now) }
        }
    }

    private func look(_ pending: PendingCall) {
        let (descriptor, failure) = pending.channel.standing
        if let failure {
            return change { state, effects, now in fail(pending, failure, &state, &effects, now) }
        }
        guard descriptor >= 0 else {
            client.retry()
            return client.isolates.noteDue(.now + Self.shortage)
        }
        let isKilled = change { state, effects, now in
            guard state.child?.pending.id == pending.id else { return false }
            state.child?.descriptor = descriptor
            watch(input: true, &state)
            return state.queue.isKilled
        }
        if isKilled { pending.channel.hangUp() }
    }

    /// The child did not get a slot, or was not forked.
    private func fail(
        _ pending: PendingCall, _ error: ForkingError, _ state: inout State, _ effects: inout Effects, _ now: Instant
    ) {
        guard state.child?.pending.id == pending.id else { return }
        let end: IsolateQueue.End =
            switch error.detail {
            case .lost(let pause): .shortage(pause: pause)
            case .shutDown: .withZygote
            case .full, .busy, .system: .shortage(pause: nil)
            default: .failedStart
            }
        endChild(end, error, nil, nil, &state, &effects, now)
    }

    // MARK: Receiving

    /// Receives what has come.
    ///
    /// - Parameter caller: the call whose thread this is; nil on the thread of `Isolates`.
    func receive(for caller: UInt64? = nil) {
        change { state, effects, now in
            guard let child = state.child, child.descriptor >= 0 else { return }
            // Or the event was of input, and a caller has come since to receive that.
            if caller == nil, !state.isInputWatched, forkcore_hung_up(child.descriptor) { state.hasHungUp = true }
            guard state.receiver == nil || state.receiver == caller else { return }
            var count = 0
            while state.child != nil, effects.broken == nil, count < Self.messagesAtOnce || state.hasHungUp {
                do throws(ForkingError) {
                    guard var message = try CallMessage.receiveNext(over: child.descriptor) else {
                        state.hasHungUp = false
                        return
                    }
                    try take(&message, &state, &effects, now)
                } catch {
                    effects.broken = (child.pending.id, error)
                }
                // In order, nothing follows the reply except the child's end.
                if state.queue.inFlight.isEmpty, !state.hasHungUp { return }
                count += 1
            }
        }
    }

    private func take(
        _ message: inout CallMessage, _ state: inout State, _ effects: inout Effects, _ now: Instant
    ) throws(ForkingError) {
        if message.kind != .reply { message.discardDescriptors() }
        switch message.kind {
        case .ended:
            let status = ExitStatus(message.head.end)
            let isKilled = client.isolates.wereKilled
            endChild(
                isKilled ? .withZygote : .byItself, isKilled ? .shutDown : .ended(status), status,
                ResourceUsage(message.head.usage), &state, &effects, now)
        case .reply where message.head.call == 0 && state.queue.phase == .starting:
            message.discardDescriptors()
            state.queue.noteStarted(at: now)
            state.child?.started = now
            effects.hasStarted = true
            noteStart(.success(()), &state, &effects)
        case .threw where message.head.call == 0, .limitRefused, .notForked:
            guard state.child?.started == nil else { throw CallMessage.noAnswer }
            state.child?.failure = message.refusal
        case .reply, .threw, .part: try takeReply(&message, &state, &effects)
        default: throw CallMessage.noAnswer
        }
    }

    private func takeReply(
        _ message: inout CallMessage, _ state: inout State, _ effects: inout Effects
    ) throws(ForkingError) {
        let id = message.head.call
        guard let call = state.calls[id], call.sent != nil, call.outcome == nil else {
            message.discardDescriptors()
            // Nobody waits for it any more: see `IsolateQueue.withdraw`. A child has no other reason to send this.
            if message.kind == .part, state.queue.isLate(id) { return }
            guard state.queue.finish(id) || state.queue.isKilled else { throw CallMessage.noAnswer }
            return
        }
        let outcome: Result<Zygote.Reply, ForkingError>
        switch message.kind {
        case .part:
            guard call.tooLong == nil else { return }
            let count = max(message.head.count, UInt64(call.parts.count + message.bytes.count))
            if count > UInt64(call.longest) {
                (call.tooLong, call.parts) = (count, [])
            } else {
                call.parts += message.bytes
            }
            return
        case .reply:
            let reply = message.reply(
                after: call.parts, expecting: call.expecting, orNone: call.traits.contains(.orNoDescriptors),
                longest: call.longest)
            outcome = call.tooLong.map { .failure(CallMessage.tooLong($0, call.longest)) } ?? reply
        default: outcome = .failure(message.refusal)
        }
        guard state.queue.finish(id) else { throw CallMessage.noAnswer }
        finish(call, outcome, &state, &effects)
    }

    // MARK: The end

    /// The child has ended, or will: its channel is not used any more.
    private func endChild(
        _ end: IsolateQueue.End, _ error: ForkingError, _ status: ExitStatus?, _ usage: ResourceUsage?,
        _ state: inout State, _ effects: inout Effects, _ now: Instant
    ) {
        guard let child = state.child else { return }
        let reason = state.queue.reason
        let isStarting = child.started == nil
        var end = end
        if end == .byItself, isStarting { end = .failedStart }
        var failure = child.failure ?? error
        if reason == .closed || reason == .released { failure = .shutDown }
        if reason == .released, state.start == nil { failure = startTimeout ?? .cancelled }
        if error == .shutDown { state.queue.release() }  // no zygote follows
        let failed = state.queue.inFlight
        let pause = state.queue.noteEnded(end, at: now)
        if child.descriptor >= 0 { child.poll.forget(child.descriptor) }
        state.child = nil
        (state.receiver, state.isInputWatched, state.hasHungUp) = (nil, false, false)
        state.lastStatus = status
        for id in failed {
            if let call = state.calls[id] { finish(call, .failure(failure), &state, &effects) }
        }
        let why: Zygote.IsolateReport.Reason =
            switch (reason, end) {
            case (.released, _): .released
            case (_, .withZygote): .zygoteLost
            case (.closed, _): .closed
            case (.recycled, _): .recycled
            case (.withdrawn, _): .killed
            case (nil, _): isStarting ? .startFailed : .ended
            }
        if pause == nil { state.cause = why.isTrouble || state.start == nil ? failure : nil }
        let report = Zygote.IsolateReport(
            handler: name, isolate: Int(number), reason: why, failure: failure, status: status, usage: usage,
            hasServed: !isStarting, calls: isStarting ? 0 : state.queue.calls,
            duration: child.started.map { now - $0 } ?? .zero, pause: pause)
        effects.ended = (child, report)
    }

    // MARK: Without the lock

    func perform(_ effects: Effects, _ now: Instant) {
        if let child = effects.child {
            if let order = effects.order { give(order, child) }
            for call in effects.sends { send(call, child) }
            for id in effects.cancels { sendCancel(id, child) }
        }
        for (call, outcome) in effects.finished {
            call.word.advance()
            call.body?(outcome)
            report(call, outcome, effects.rejected, now)
        }
        if let (id, error) = effects.broken { breakChannel(id, error) }
        if effects.hasStarted { client.onEvent(.isolateStarted(handler: name, isolate: Int(number))) }
        if let start = effects.start {
            word.advance()
            effects.onStart.forEach { $0(start) }
        }
        if let (child, report) = effects.ended {
            if report.status == nil { child.pending.channel.hangUp() }
            client.release(child.pending.id)
            client.onEvent(.isolateEnded(report))
            configuration.onChildEnd(report)
        }
        if effects.needsTurn { client.isolates.wake(self) }
        guard effects.isOver else { return }
        word.advance()
        effects.onOver.forEach { $0() }
        client.isolates.remove(self)
    }

    private func give(_ order: IsolateQueue.Order, _ child: Child) {
        switch order {
        case .close: try? CallMessage(.close).send(over: child.descriptor)  // if it fails, the child is killed soon
        case .kill:
            guard client.withdraw(child.pending.id) else { return child.pending.channel.hangUp() }
            child.pending.channel.fail(.cancelled)
            change { state, effects, now in fail(child.pending, .cancelled, &state, &effects, now) }
        case .replaceZygote: client.replaceStuck(child.pending.id)
        }
    }

    private func send(_ call: IsolateCall, _ child: Child) {
        if call.expecting > 0 { child.pending.channel.acceptRights() }
        do throws(ForkingError) {
            try call.request.send(over: child.descriptor)
            call.request.dropPayload()
        } catch {
            change { state, effects, now in noteUnsent(call, error, &state, &effects, now) }
        }
        if call.body == nil { call.word.advance() }
        // It may have been withdrawn before it was sent.
        if manner.isCooperative, isLate(call.id) { sendCancel(call.id, child) }
    }

    private func noteUnsent(
        _ call: IsolateCall, _ error: ForkingError, _ state: inout State, _ effects: inout Effects, _ now: Instant
    ) {
        switch error.errno {
        case .brokenPipe?, .connectionReset?: return  // the channel says why
        case .wouldBlock?, .noBufferSpace?:
            guard state.calls[call.id] != nil else { return }
            state.queue.requeue(call.id, until: now + Self.fullSocket)
            call.sent = nil
            if state.receiver == call.id { state.receiver = nil }
        default:
            guard state.calls[call.id] != nil, state.queue.finish(call.id) else { return }
            finish(call, .failure(error), &state, &effects)
        }
    }

    private func sendCancel(_ id: UInt64, _ child: Child) {
        var message = CallMessage(.cancel)
        message.head.call = id
        try? message.send(over: child.descriptor)  // if it fails, the child is killed soon
    }

    private func breakChannel(_ id: PendingCall.ID, _ error: ForkingError) {
        let (cause, isZygotes) = client.loss(of: id, because: error)
        change { state, effects, now in
            guard state.child?.pending.id == id else { return }
            endChild(isZygotes ? .withZygote : .byItself, cause, nil, nil, &state, &effects, now)
        }
    }

    private func report(
        _ call: IsolateCall, _ outcome: Result<Zygote.Reply, ForkingError>, _ isRejected: Bool, _ now: Instant
    ) {
        if isRejected { return client.onEvent(.rejected(handler: name)) }
        var failure: ForkingError?
        if case .failure(let error) = outcome { failure = error }
        client.onEvent(
            .finished(
                Zygote.CallReport(
                    handler: name, failure: failure, duration: now - call.begun,
                    waited: call.sent.map { $0 - call.begun }, forkTime: nil, usage: nil, work: Zygote.Work(),
                    isolate: Int(number))))
    }
}
