// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization
import SystemPackage

extension Zygote {
    /// A call under way, in the host. For a loop of your own: poll `descriptor`, and `take()` when it is readable, or when
    /// `lookAgain` has passed.
    ///
    /// Any thread may use it. If it goes away without an answer, its child is killed.
    public final class Call: Sendable {
        /// Readable when there is something to `take()`. It stays the call's.
        public var descriptor: FileDescriptor { FileDescriptor(rawValue: channel) }

        private let channel: Int32
        private let link: ZygoteLink
        private let ticket: Ticket.ID
        private let name: String
        private let begun: Instant
        private let deadline: Duration?
        private let longest: Int
        private let state = Mutex(State())

        private struct State {
            var isDone = false
            /// Why the child is killed; and when that is not waited for any more.
            var killed: (why: ZygoteError, confirmBy: Instant)?
        }

        /// A child is dead at once. Only a zygote that stands still does not say so in this time; it is replaced then.
        private static let confirmation = Duration.seconds(5)

        init(
            _ channel: Int32, _ link: ZygoteLink, _ ticket: Ticket.ID, name: String, _ begun: Instant,
            deadline: Duration?, longest: Int
        ) {
            self.channel = channel
            self.link = link
            self.ticket = ticket
            self.name = name
            self.begun = begun
            self.deadline = deadline
            self.longest = longest
        }

        deinit {
            forkcore_close(channel)  // the zygote kills the child for it, if it still lives
            if !state.withLock({ $0.isDone }) { link.finished(ticket, name, begun, .failure(.cancelled), nil) }
        }

        /// The answer, or nil if there is none yet. Never waits; recv(2). After an answer or an error, not to be called again.
        ///
        /// - Throws: why there will be none. A handler that threw, a child that died, a deadline that passed.
        public func take() throws(ZygoteError) -> Reply? {
            let ending: Ending? = state.withLock { state in
                precondition(!state.isDone, "a call is taken once")
                let ending = look(&state)
                state.isDone = ending != nil
                return ending
            }
            guard let ending else { return nil }
            // Unlocked: observers are told, who may cancel this call too.
            if ending.isStuck { link.replaceStuck(ticket) }
            link.finished(ticket, name, begun, ending.outcome, ending.message)
            return try ending.outcome.get()
        }

        /// How long it may take until `take()` has something to do although the descriptor is not readable. Never for ever:
        /// another thread may cancel the call meanwhile, and a zygote that stands still would not say so.
        public var lookAgain: Duration {
            let now = Instant.now
            let next = state.withLock {
                earlier($0.killed?.confirmBy, $0.killed == nil ? deadline.map { begun + $0 } : nil)
            }
            return max(.zero, min(next ?? .init(nanoseconds: .max), now + Self.confirmation) - now)
        }

        /// Waits for the answer. For threads that may wait: not for a task, nor an event loop's. ppoll(2).
        @available(*, noasync, message: "await reply(), of ForkingAsync")
        public func wait() throws(ZygoteError) -> Reply {
            while true {
                if let reply = try take() { return reply }
                var descriptor = channel
                var ready: UInt32 = 0
                try checked(
                    forkcore_wait_readable(&descriptor, 1, lookAgain.inNanoseconds, &ready), "ppoll")
            }
        }

        /// Has the child killed; `take()` throws `.cancelled` once it is dead, unless it answered before.
        public func cancel() {
            state.withLock { kill(&$0, .cancelled) }
        }

        private func kill(_ state: inout State, _ why: ZygoteError) {
            guard !state.isDone, state.killed == nil else { return }
            state.killed = (why, confirmBy: .now + Self.confirmation)
            // A call that still waits has no child: the end of its channel closes here.
            if !link.withdraw(ticket) { forkcore_finish_sending(channel) }
        }

        private struct Ending {
            var outcome: Result<Reply, ZygoteError>
            var message: CallMessage?
            /// Whether the zygote did not say that the child is dead.
            var isStuck = false
        }

        private func look(_ state: inout State) -> Ending? {
            do throws(ZygoteError) {
                if let message = try CallMessage.receive(over: channel, atMost: longest) {
                    return Ending(outcome: outcome(of: message, state), message: message)
                }
            } catch {
                // The end of the channel: who was to be killed has been, or never was there.
                guard case .lost = error else { return Ending(outcome: .failure(error)) }
                return Ending(outcome: .failure(state.killed?.why ?? (link.wasKilled ? .shutDown : error)))
            }
            let now = Instant.now
            if let deadline, begun + deadline <= now { kill(&state, .deadline(deadline)) }
            if let killed = state.killed, killed.confirmBy <= now {
                return Ending(outcome: .failure(killed.why), isStuck: true)
            }
            return nil
        }

        private func outcome(of message: CallMessage, _ state: State) -> Result<Reply, ZygoteError> {
            if message.kind != .reply || message.bytes.count > longest { message.closeDescriptors() }
            switch message.kind {
            case .reply where message.bytes.count > longest:
                return .failure(CallMessage.tooLong(UInt64(message.bytes.count), longest))
            case .reply:
                return .success(
                    Reply(message.bytes, descriptors: message.descriptors.map { FileDescriptor(rawValue: $0) }))
            case .threw:
                let texts = message.texts(2)
                return .failure(.threw(type: texts[0], description: texts[1]))
            case .limitRefused:
                return .failure(.limitRefused(call: message.texts(1)[0], Errno(rawValue: message.head.code)))
            case .notForked:
                return .failure(.system(call: message.texts(1)[0], Errno(rawValue: message.head.code)))
            case .ended:
                let status = ExitStatus(message.head.end)
                guard case .killed(.kill, _) = status else { return .failure(.ended(status)) }
                return .failure(state.killed?.why ?? (link.wasKilled ? .shutDown : .ended(status)))
            case .request, nil:
                return .failure(.invalid("the child sent what is no answer"))
            }
        }
    }
}

extension ExitStatus {
    init(_ end: CallMessage.End) {
        self =
            if end.isUnknown != 0 {
                .unknown
            } else if end.signal != 0 {
                .killed(Signal(rawValue: end.signal), dumpedCore: end.dumpedCore != 0)
            } else {
                .exited(code: end.code)
            }
    }
}

extension CallMessage.End {
    init(_ status: ExitStatus) {
        switch status {
        case .exited(let code): self.code = code
        case .killed(let signal, let dumpedCore):
            self.signal = signal.rawValue
            self.dumpedCore = dumpedCore ? 1 : 0
        case .unknown: isUnknown = 1
        }
    }
}

extension ResourceUsage {
    init(_ usage: CallMessage.Usage) {
        userTime = .microseconds(usage.userMicroseconds)
        systemTime = .microseconds(usage.systemMicroseconds)
        maxResidentKiB = usage.maxResidentKiB
        minorFaults = usage.minorFaults
        majorFaults = usage.majorFaults
    }
}

extension CallMessage.Usage {
    init(_ usage: ResourceUsage) {
        userMicroseconds = usage.userTime.inNanoseconds / 1000
        systemMicroseconds = usage.systemTime.inNanoseconds / 1000
        maxResidentKiB = usage.maxResidentKiB
        minorFaults = usage.minorFaults
        majorFaults = usage.majorFaults
    }

    /// Of this process. getrusage(2).
    static var own: Self {
        var usage = rusage()
        guard getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage) == 0 else { return Self() }
        func microseconds(_ time: timeval) -> Int64 { Int64(time.tv_sec) * 1_000_000 + Int64(time.tv_usec) }
        return Self(
            userMicroseconds: microseconds(usage.ru_utime), systemMicroseconds: microseconds(usage.ru_stime),
            maxResidentKiB: Int64(usage.ru_maxrss), minorFaults: Int64(usage.ru_minflt),
            majorFaults: Int64(usage.ru_majflt))
    }
}
