// SPDX-License-Identifier: Apache-2.0

extension Zygote {
    /// What happens between a host and its zygote, as the host sees it.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Event: Sendable {
        /// A zygote was started; the first one is ready by then.
        case started(ProcessID)
        /// It has ended, unasked: so, and after so many failures in a row the next one is started after this time
        /// (zero: at once).
        case lost(ProcessID, ExitStatus, failures: Int, pause: Duration)
        /// No zygote could be started; it is tried again.
        case startFailed(ForkingError)
        /// A call has one of the places: the zygote was told to fork its child.
        case began(handler: String)
        /// A call was turned away, as too many wait.
        case rejected(handler: String)
        /// A call has ended.
        case finished(CallReport)
        /// It has ended, as it was asked to.
        case ended(ProcessID)

        /// Whether a person should see it.
        public var isTrouble: Bool { severity >= .warning }

        /// How bad it is. A call whose child crashed, or could not be had, is a warning, though whoever called is told,
        /// too.
        public var severity: EventSeverity {
            switch self {
            case .started, .ended: .info
            case .lost(_, _, let failures, _): failures == 0 ? .warning : .error
            case .startFailed: .error
            case .began, .rejected: .debug
            case .finished(let report):
                switch report.failure?.detail {
                case .ended(.signaled(.brokenPipe, _)): .debug  // its client left first, as clients do
                case .ended, .deadlineExceeded, .limitRefused, .system, .invalid: .warning
                default: .debug
                }
            }
        }
    }

    /// A call has ended.
    public struct CallReport: Sendable {
        /// The handler's name.
        public let handler: String
        /// Why it has no answer; nil if it has.
        public let failure: ForkingError?
        /// From its begin to its answer, waiting included.
        public let duration: Duration
        /// How long it waited for a place; nil if it never had one, and so no child.
        public let waited: Duration?
        /// From its fork request's arrival in the zygote to its child's first step; nil if the child told nothing.
        public let forkTime: Duration?
        /// What the child had used when it answered, or ended; nil if that is not known.
        public let usage: ResourceUsage?
        /// What the zygote has done since the report before this one, as far as it has told.
        public let work: Work
    }

    /// What a zygote has done between two reports: in their sum, nothing is told twice. What it did after its last
    /// answer, before it was lost, is not told at all.
    public struct Work: Hashable, Sendable {
        /// Children that it forked.
        public internal(set) var forks = 0
        /// Children that it reaped.
        public internal(set) var reaped = 0
        /// What it took to reap them, in all.
        public internal(set) var reapTime = Duration.zero
    }

    /// What a zygote has done. Children and times as of the last answer.
    public struct Status: Hashable, Sendable {
        /// Calls that have a place now.
        public internal(set) var running = 0
        /// Calls that wait for one.
        public internal(set) var waiting = 0
        /// Children that were alive.
        public internal(set) var children = 0
        /// Children forked since the zygote began.
        public internal(set) var forks = 0
        /// Children reaped since it began.
        public internal(set) var reaped = 0
        /// What it took to reap them, in all.
        public internal(set) var reapTime = Duration.zero
    }
}

extension Zygote.Event: CustomStringConvertible {
    /// One line for people, without a newline.
    public var description: String {
        switch self {
        case .started(let pid): "zygote \(pid) started"
        case .lost(let pid, let status, _, .zero): "zygote \(pid) \(status); the next one is started at once"
        case .lost(let pid, let status, let failures, let pause):
            "zygote \(pid) \(status), \(failures) in a row; the next one is started after \(pause.inSeconds)"
        case .startFailed(let error): "no zygote could be started: \(error)"
        case .began(let handler): "a call of '\(handler)' has a place"
        case .rejected(let handler): "a call of '\(handler)' was refused, as too many wait"
        case .finished(let report):
            "'\(report.handler)' \(report.failure.map { "failed: \($0)" } ?? "answered") after \(report.duration.inSeconds)"
        case .ended(let pid): "zygote \(pid) has ended"
        }
    }
}
