// SPDX-License-Identifier: Apache-2.0

extension Zygote.Isolate {
    /// When an isolate's child is replaced, and how it is limited.
    public struct Configuration: Sendable {
        /// Whether another child follows one that has ended by itself, crashed or was killed because of a call's
        /// deadline or cancellation. The default is none: the state is lost with the child.
        public var restart = Restart.never
        /// After this many calls the child is replaced by another; nil means no limit. The calls that it serves are
        /// completed, and later ones wait for the other.
        public var maxCalls: Int?
        /// A child of this age is replaced, as soon as it serves no call.
        public var maxAge: Duration?
        /// The child's resource limits, for its whole life; nil means those of `Zygote.Configuration.child`. Also
        /// `child.timeout` bounds the whole life of a child.
        public var limits: ResourceLimits?
        /// Runs in the host when a child has ended, on the thread that noticed it, and must not block. If the report's
        /// `pause` is not nil, another child follows.
        public var onChildEnd: @Sendable (Zygote.IsolateReport) -> Void = { _ in }

        /// The defaults, as documented at each property.
        public init() {}

        func rules(_ manner: IsolateManner, maxWaiting: Int) -> IsolateQueue.Rules {
            let restart: IsolateQueue.Restart =
                switch restart {
                case .never: .never
                case .always: .always
                case .atMost(let count, let time): .atMost(count, within: time)
                }
            return IsolateQueue.Rules(
                window: manner.window, isCooperative: manner.isCooperative, maxWaiting: maxWaiting, restart: restart,
                maxCalls: maxCalls, maxAge: maxAge)
        }

        func check() throws(ForkingError) {
            try requireAtLeast1("maxCalls", maxCalls)
            try requirePositive("maxAge", maxAge)
            if case .atMost(let count, let time) = restart {
                try requireAtLeast1("restart's number", count)
                try requirePositive("restart's duration", time)
            }
        }
    }

    /// Whether another child follows one that has ended.
    public enum Restart: Hashable, Sendable {
        /// None does, and calls fail with the cause from then on.
        case never
        /// One always does: at once, or after a pause if two in a row have ended within a second. Pauses grow from 100
        /// ms to 30 s.
        case always
        /// At most so many follow within this time, with the same pauses. With the next end, the isolate has ended.
        case atMost(Int, within: Duration)
    }

    /// The state of an isolate now.
    public struct Status: Hashable, Sendable {
        /// Calls that the child has not replied to yet.
        public internal(set) var running = 0
        /// Calls that wait for their turn, or for the next child.
        public internal(set) var waiting = 0
        /// Calls that were given to the present child, or to the last one.
        public internal(set) var calls = 0
        /// Children that have started so far.
        public internal(set) var starts = 0
        /// Whether a child serves calls.
        public internal(set) var isRunning = false
        /// Whether the isolate has ended for good.
        public internal(set) var hasEnded = false
    }
}
