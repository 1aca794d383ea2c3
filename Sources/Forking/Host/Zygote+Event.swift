// SPDX-License-Identifier: Apache-2.0

extension Zygote {
    /// An event in the life of a zygote or of a call, as seen by the host.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Event: Sendable {
        /// A zygote was started. The first one is ready by then.
        case started(ProcessID)
        /// The zygote ended unexpectedly, with this status. After so many failures in a row, the next one is started
        /// after `pause`; zero means at once.
        case lost(ProcessID, ExitStatus, failures: Int, pause: Duration)
        /// No zygote could be started. The start is tried again.
        case startFailed(ForkingError)
        /// A call got a slot: a warm child has its request, or the zygote was asked to fork a child.
        case began(handler: String)
        /// A call was rejected because too many calls wait.
        case rejected(handler: String)
        /// A call's context, from `Hooks.context`, is too long: it goes without this number of its texts.
        case contextCut(handler: String, leftOut: Int)
        /// A call ended.
        case finished(CallReport)
        /// The zygote ended as requested.
        case ended(ProcessID)

        /// Whether an operator should see it.
        public var isTrouble: Bool { severity >= .warning }

        /// How serious it is. A crashed child, or one that could not be forked, is a warning, although the caller gets
        /// the error too.
        public var severity: EventSeverity {
            switch self {
            case .started, .ended: .info
            case .lost(_, _, let failures, _): failures == 0 ? .warning : .error
            case .startFailed: .error
            case .contextCut: .warning
            case .began, .rejected: .debug
            case .finished(let report):
                switch report.failure?.detail {
                case .ended(.signaled(.brokenPipe, _)): .debug  // normal: the client closed first
                case .ended, .deadlineExceeded, .limitRefused, .system, .invalid: .warning
                default: .debug
                }
            }
        }
    }

    /// How a call ended.
    public struct CallReport: Sendable {
        /// The handler's name.
        public let handler: String
        /// Why there is no reply; nil if there is one.
        public let failure: ForkingError?
        /// From the start of the call to its reply, waiting included.
        public let duration: Duration
        /// How long it waited for a slot; nil if it never got one, and so had no child.
        public let waited: Duration?
        /// From the arrival of its fork request in the zygote to its child's first step; nil if the child was
        /// warm, or did not report it.
        public let forkTime: Duration?
        /// The child's resource usage when it replied, or ended; nil if unknown.
        public let usage: ResourceUsage?
        /// The zygote's work since the previous report, as far as the zygote has reported it.
        public let work: Work
    }

    /// The zygotes' work between two reports. Summed over all reports, nothing is counted twice.
    public struct Work: Hashable, Sendable {
        /// Children forked.
        public internal(set) var forks = 0
        /// Children reaped.
        public internal(set) var reaped = 0
        /// The total time spent reaping them.
        public internal(set) var reapTime = Duration.zero
    }

    /// The state of the calls and of the zygote now.
    public struct Status: Hashable, Sendable {
        /// Calls that have a slot.
        public internal(set) var running = 0
        /// Calls that wait for a slot.
        public internal(set) var waiting = 0
        /// Warm children that no call has taken yet.
        public internal(set) var warm = 0
        /// Live children, warm ones included.
        public internal(set) var children = 0
        /// Children forked since the zygote started.
        public internal(set) var forks = 0
        /// Children reaped since the zygote started.
        public internal(set) var reaped = 0
        /// The total time spent reaping them.
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
            "zygote \(pid) \(status), as did others before it, \(failures) in all; the next one is started after "
                + "\(pause.inSeconds)"
        case .startFailed(let error): "no zygote could be started: \(error)"
        case .began(let handler): "a call of '\(handler)' has a slot"
        case .rejected(let handler): "a call of '\(handler)' was refused, because too many wait"
        case .contextCut(let handler, let leftOut):
            "a call of '\(handler)' goes without \(leftOut) \(leftOut == 1 ? "text" : "texts") of its context, "
                + "which is too long"
        case .finished(let report):
            "'\(report.handler)' \(report.failure.map { "failed: \($0)" } ?? "answered") after \(report.duration.inSeconds)"
        case .ended(let pid): "zygote \(pid) has ended"
        }
    }
}
