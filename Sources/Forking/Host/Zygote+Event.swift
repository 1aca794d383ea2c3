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
        /// An isolate's child has started, the first one or another. `isolate`: the isolate's number.
        case isolateStarted(handler: String, isolate: Int)
        /// An isolate's child has ended, or could not be started.
        case isolateEnded(IsolateReport)
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
            case .isolateStarted: .info
            case .isolateEnded(let report): report.severity
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
        /// warm, or an isolate's, or did not report it.
        public let forkTime: Duration?
        /// The child's resource usage when it replied, or ended; nil if unknown, or if the child is an isolate's.
        public let usage: ResourceUsage?
        /// The zygote's work since the previous report, as far as the zygote has reported it.
        public let work: Work
        /// The number of the isolate that was called; nil if the call had a child of its own. For a call of an isolate,
        /// `waited` is the time until it was sent to the child.
        public internal(set) var isolate: Int?
    }

    /// How an isolate's child ended.
    public struct IsolateReport: Sendable {
        /// Why it ended.
        #if hasAttribute(nonexhaustive)
            @nonexhaustive
        #endif
        public enum Reason: Sendable {
            /// The isolate was closed.
            case closed
            /// The last reference to the isolate was released.
            case released
            /// The child has served `maxCalls` calls, or is as old as `maxAge`.
            case recycled
            /// A call was cancelled, or its deadline passed, and the child could not or did not end it.
            case killed
            /// It ended by itself: it crashed, was killed, or called exit(3).
            case ended
            /// It could not be started.
            case startFailed
            /// It ended with its zygote.
            case zygoteLost

            var isTrouble: Bool {
                switch self {
                case .closed, .released, .recycled: false
                case .killed, .ended, .startFailed, .zygoteLost: true
                }
            }
        }

        /// How serious it is: a warning, unless the host has asked for the end.
        public var severity: EventSeverity { reason.isTrouble ? .warning : .info }

        /// The handler's name.
        public let handler: String
        /// The isolate's number.
        public let isolate: Int
        /// Why the child ended.
        public let reason: Reason
        /// What calls that it was serving fail with.
        public let failure: ForkingError?
        /// The child's status; nil if it could not be forked, or its zygote was lost.
        public let status: ExitStatus?
        /// The resource usage of its whole life; nil if unknown.
        public let usage: ResourceUsage?
        /// Whether it had started.
        public let hasServed: Bool
        /// The number of calls that it was sent.
        public let calls: Int
        /// How long it has served.
        public let duration: Duration
        /// How long it is until the next child is started; nil if the isolate has ended for good.
        public let pause: Duration?
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
        /// Calls that have a slot. Those of isolates are not counted here: they share their isolate's slot.
        public internal(set) var running = 0
        /// Calls and isolates that wait for a slot.
        public internal(set) var waiting = 0
        /// Isolates that have a slot.
        public internal(set) var isolates = 0
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
        case .isolateStarted(let handler, let number): "isolate \(number) of '\(handler)' has started"
        case .isolateEnded(let report): report.description
        case .ended(let pid): "zygote \(pid) has ended"
        }
    }
}

extension Zygote.IsolateReport: CustomStringConvertible {
    /// One line for people, without a newline.
    public var description: String {
        let next = pause.map { $0 == .zero ? "; the next child is started at once" : "; the next in \($0.inSeconds)" }
        let why =
            switch reason {
            case .closed: "was closed"
            case .released: "was released"
            case .recycled: "was recycled"
            case .killed: "was killed, because a call did not end in time"
            case .ended: status.map { "\($0)" } ?? "ended"
            case .startFailed: "could not be started"
            case .zygoteLost: "ended with its zygote"
            }
        let error = status == nil && reason.isTrouble || reason == .startFailed ? failure.map { ": \($0)" } ?? "" : ""
        return "isolate \(isolate) of '\(handler)' \(why) after \(calls) calls\(error)\(next ?? "")"
    }
}
