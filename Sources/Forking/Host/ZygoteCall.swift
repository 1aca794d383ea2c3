// SPDX-License-Identifier: Apache-2.0

import Synchronization
public import SystemPackage

extension Zygote {
    /// A call in progress. Host, any thread. An event loop polls `descriptor`, and calls `poll()` when it is readable
    /// or when `nextPollDelay` has passed.
    ///
    /// Releasing a call that has no reply kills its child.
    public final class Call: Sendable {
        /// Readable when `poll()` has something to do. The call owns it. Opens the call's channel if the call still
        /// waits for a slot. -1 if no descriptor is available, or if the call is over: then call `poll()` after
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
            /// Why the child is killed, and when to stop waiting for its end.
            var killed: (why: ForkingError, confirmBy: Instant)?
            /// The parts of a long reply received so far.
            var parts: [UInt8] = []
        }

        /// A killed child dies at once, and the zygote reports it. A zygote that does not report it within this time
        /// hangs, and is replaced.
        private static let confirmation = Duration.seconds(5)
        /// A waiting call checks this often whether descriptors are available again: it may lack a slot only because
        /// there were none.
        private static let shortage = Duration.milliseconds(500)
        /// The number of parts of a long reply that one `poll()` receives.
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
            channel.close()  // the zygote then kills the child if it is still alive
            if !state.withLock({ $0.isDone }) { client.finished(pending, name, begun, .failure(.cancelled), nil) }
        }

        /// Returns the reply, or nil if there is none yet. Never blocks. recv(2). Must not be called again after it has
        /// returned a reply or thrown.
        ///
        /// - Throws: `ForkingError`: why there will be no reply. The handler threw, the child died, the deadline
        ///   passed.
        public func poll() throws(ForkingError) -> Reply? {
            if case (-1, nil) = channel.standing { client.retry() }
            let ending: Ending? = state.withLock { state in
                precondition(!state.isDone, "a call must not be polled after it has returned a reply or thrown")
                let ending = look(&state)
                state.isDone = ending != nil
                return ending
            }
            guard let ending else { return nil }
            channel.finish()
            // Called without the lock, because an observer may cancel this call.
            if ending.isStuck { client.replaceStuck(pending) }
            client.finished(pending, name, begun, ending.outcome, ending.message)
            return try ending.outcome.get()
        }

        /// How long to wait before the next `poll()` if the descriptor does not become readable. Always finite: another
        /// thread may cancel the call meanwhile, and a zygote that hangs reports nothing.
        public var nextPollDelay: Duration {
            let now = Instant.now
            let next = state.withLock {
                earlier($0.killed?.confirmBy, $0.killed == nil ? deadline.map { begun + $0 } : nil)
            }
            let often = channel.standing.channel < 0 ? Self.shortage : Self.confirmation
            return max(.zero, min(next ?? .init(nanoseconds: .max), now + often) - now)
        }

        /// Waits for the reply. For threads that may block: not for a task, nor for an event loop's thread. ppoll(2),
        /// futex(2).
        ///
        /// - Throws: `ForkingError`, as `poll()`.
        @available(*, noasync, message: "await reply(), of ForkingAsync")
        public func wait() throws(ForkingError) -> Reply {
            while true {
                try channel.wait(atMost: nextPollDelay)
                if let reply = try poll() { return reply }
            }
        }

        /// Calls `body` once, when the call gets a slot or fails: at once, or later on another thread, which `body`
        /// must not block.
        package func whenDecided(_ body: @escaping @Sendable () -> Void) { channel.whenDecided(body) }

        /// Kills the child. `poll()` throws `.cancelled` once the child is dead, unless it replied before. Any thread.
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
            /// True if the zygote did not report the child's end in time.
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
            state.parts += part.bytes  // the announced size is not trusted: no memory is reserved for it
        }

        /// The channel is at its end. A child that was to be killed is dead, or was never forked.
        private func failed(_ error: ForkingError, _ state: State) -> Ending {
            guard error.code == .zygoteLost else { return Ending(outcome: .failure(error)) }
            return Ending(outcome: .failure(state.killed?.why ?? (client.wasKilled ? .shutDown : error)))
        }

        private func outcome(of message: inout CallMessage, _ state: inout State) -> Result<Reply, ForkingError> {
            if message.kind != .reply { message.discardDescriptors() }
            switch message.kind {
            case .reply:
                defer { state.parts = [] }
                return message.reply(after: state.parts, expecting: channel.expecting, longest: longest)
            case .threw, .limitRefused, .notForked: return .failure(message.refusal)
            case .ended:
                let status = ExitStatus(message.head.end)
                guard case .signaled(.kill, _) = status else { return .failure(.ended(status)) }
                return .failure(state.killed?.why ?? (client.wasKilled ? .shutDown : .ended(status)))
            case .request, .part, .ready, .forked, .call, .cancel, .close, nil: return .failure(CallMessage.noAnswer)
            }
        }
    }
}
