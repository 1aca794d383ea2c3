// SPDX-License-Identifier: Apache-2.0

import Synchronization
public import SystemPackage

extension Zygote {
    /// A call under way, in the host. For a loop of your own: poll `descriptor`, and `poll()` when it is readable, or
    /// when `nextPollDelay` has passed.
    ///
    /// Any thread may use it. If it goes away without an answer, its child is killed.
    public final class Call: Sendable {
        /// Readable when there is something to `poll()`. It stays the call's. A call that waits for a place has none
        /// until it is asked for here; -1 if there is none to be had, or the call is over: then `poll()` after
        /// `nextPollDelay`.
        public var descriptor: FileDescriptor { FileDescriptor(rawValue: channel.descriptor) }

        private let channel: CallChannel
        private let client: ZygoteClient
        private let pending: PendingCall.ID
        private let name: String
        private let begun: Instant
        private let deadline: Duration?
        private let longest: Int
        private let state = Mutex(State())

        private struct State {
            var isDone = false
            /// Why the child is killed; and when that is not waited for any more.
            var killed: (why: ForkingError, confirmBy: Instant)?
            /// What has come of an answer in parts.
            var parts: [UInt8] = []
        }

        /// A child is dead at once. Only a zygote that stands still does not say so in this time; it is replaced then.
        private static let confirmation = Duration.seconds(5)
        /// A call that waits looks so often whether there are descriptors again, for want of which it may have no
        /// place.
        private static let shortage = Duration.milliseconds(500)
        /// So much is taken of a long answer before it is looked what else there is to do.
        private static let partsAtOnce = 64

        init(
            _ channel: CallChannel, _ client: ZygoteClient, _ pending: PendingCall.ID, name: String, _ begun: Instant,
            deadline: Duration?, longest: Int
        ) {
            self.channel = channel
            self.client = client
            self.pending = pending
            self.name = name
            self.begun = begun
            self.deadline = deadline
            self.longest = longest
        }

        deinit {
            channel.close()  // the zygote kills the child for it, if it still lives
            if !state.withLock({ $0.isDone }) { client.finished(pending, name, begun, .failure(.cancelled), nil) }
        }

        /// The answer, or nil if there is none yet. Never waits; recv(2). After an answer or an error, not to be called
        /// again.
        ///
        /// - Throws: why there will be none. A handler that threw, a child that died, a deadline that passed.
        public func poll() throws(ForkingError) -> Reply? {
            if case (-1, nil) = channel.standing { client.retry() }
            let ending: Ending? = state.withLock { state in
                precondition(!state.isDone, "a call is taken once")
                let ending = look(&state)
                state.isDone = ending != nil
                return ending
            }
            guard let ending else { return nil }
            channel.finish()
            // Unlocked: observers are told, who may cancel this call too.
            if ending.isStuck { client.replaceStuck(pending) }
            client.finished(pending, name, begun, ending.outcome, ending.message)
            return try ending.outcome.get()
        }

        /// How long it may take until `poll()` has something to do although the descriptor is not readable. Never for
        /// ever: another thread may cancel the call meanwhile, and a zygote that stands still would not say so.
        public var nextPollDelay: Duration {
            let now = Instant.now
            let next = state.withLock {
                earlier($0.killed?.confirmBy, $0.killed == nil ? deadline.map { begun + $0 } : nil)
            }
            let often = channel.standing.channel < 0 ? Self.shortage : Self.confirmation
            return max(.zero, min(next ?? .init(nanoseconds: .max), now + often) - now)
        }

        /// Waits for the answer. For threads that may wait: not for a task, nor an event loop's. ppoll(2), futex(2).
        @available(*, noasync, message: "await reply(), of ForkingAsync")
        public func wait() throws(ForkingError) -> Reply {
            while true {
                if let reply = try poll() { return reply }
                try channel.wait(atMost: nextPollDelay)
            }
        }

        /// Calls `body` when there is a descriptor to poll, or nothing to wait for: now, or on another thread, which is
        /// not to be held up. Once.
        package func whenDecided(_ body: @escaping @Sendable () -> Void) { channel.whenDecided(body) }

        /// Has the child killed; `poll()` throws `.cancelled` once it is dead, unless it answered before.
        public func cancel() {
            state.withLock { kill(&$0, .cancelled) }
        }

        private func kill(_ state: inout State, _ why: ForkingError) {
            guard !state.isDone, state.killed == nil else { return }
            state.killed = (why, confirmBy: .now + Self.confirmation)
            // A call that still waits has no child.
            if client.withdraw(pending) { channel.fail(why) } else { channel.hangUp() }
        }

        private struct Ending {
            var outcome: Result<Reply, ForkingError>
            var message: CallMessage?
            /// Whether the zygote did not say that the child is dead.
            var isStuck = false
        }

        private func look(_ state: inout State) -> Ending? {
            if let ending = receive(&state) { return ending }
            let now = Instant.now
            if let deadline, begun + deadline <= now { kill(&state, .deadlineExceeded(deadline)) }
            if let killed = state.killed, killed.confirmBy <= now {
                return Ending(outcome: .failure(killed.why), isStuck: true)
            }
            return channel.standing.failure.map { failed($0, state) }
        }

        private func receive(_ state: inout State) -> Ending? {
            let (channel, failure) = channel.standing
            if let failure { return failed(failure, state) }
            guard channel >= 0 else { return nil }
            do throws(ForkingError) {
                for _ in 0..<Self.partsAtOnce {
                    guard var message = try CallMessage.receive(over: channel) else { return nil }
                    guard message.kind == .part else {
                        return Ending(outcome: outcome(of: &message, &state), message: message)
                    }
                    message.discardDescriptors()
                    try append(message, &state)
                }
                return nil
            } catch {
                return failed(error, state)
            }
        }

        private func append(_ part: CallMessage, _ state: inout State) throws(ForkingError) {
            let count = max(part.head.count, UInt64(state.parts.count + part.bytes.count))
            guard count <= UInt64(longest) else { throw CallMessage.tooLong(count, longest) }
            state.parts += part.bytes  // no room is made for what is only promised
        }

        /// At the end of the channel: who was to be killed has been, or never was there.
        private func failed(_ error: ForkingError, _ state: State) -> Ending {
            guard error.code == .zygoteLost else { return Ending(outcome: .failure(error)) }
            return Ending(outcome: .failure(state.killed?.why ?? (client.wasKilled ? .shutDown : error)))
        }

        private func outcome(of message: inout CallMessage, _ state: inout State) -> Result<Reply, ForkingError> {
            if message.kind != .reply { message.discardDescriptors() }
            switch message.kind {
            case .reply: return reply(of: &message, &state)
            case .threw:
                let texts = message.texts(2)
                return .failure(.threw(type: texts[0], description: texts[1]))
            case .limitRefused:
                return .failure(
                    .limitRefused(call: ForkingError.printable(message.texts(1)[0]), Errno(rawValue: message.head.code))
                )
            case .notForked:
                return .failure(
                    .system(call: ForkingError.printable(message.texts(1)[0]), Errno(rawValue: message.head.code)))
            case .ended:
                let status = ExitStatus(message.head.end)
                guard case .signaled(.kill, _) = status else { return .failure(.ended(status)) }
                return .failure(state.killed?.why ?? (client.wasKilled ? .shutDown : .ended(status)))
            case .request, .part, nil: return .failure(CallMessage.noAnswer)
            }
        }

        private func reply(of message: inout CallMessage, _ state: inout State) -> Result<Reply, ForkingError> {
            let descriptors = message.descriptors
            message.descriptors = []
            do throws(ForkingError) {
                let given = max(descriptors.count, Int(message.head.descriptors))
                guard descriptors.count == channel.expecting, given == descriptors.count else {
                    throw .invalid(
                        "the child sent \(counted(given)), and \(channel.expecting) "
                            + "\(channel.expecting == 1 ? "was" : "were") expected")
                }
                guard !state.parts.isEmpty else {
                    guard message.bytes.count <= longest else {
                        throw CallMessage.tooLong(UInt64(message.bytes.count), longest)
                    }
                    return .success(Reply(message.bytes, received: descriptors))
                }
                try append(message, &state)
                defer { state.parts = [] }
                return .success(Reply(state.parts, received: descriptors))
            } catch {
                discard(descriptors)
                return .failure(error)
            }
        }

        private func counted(_ count: Int) -> String { count == 1 ? "1 descriptor" : "\(count) descriptors" }
    }
}
