// SPDX-License-Identifier: Apache-2.0
//
// Any process: how things ended, in one word each. The set of words is small, whatever a child does, because they are
// labels of metrics.

import Forking

extension ExitStatus {
    var cause: String {
        switch self {
        case .exited(code: 0): "success"
        case .exited: "failure"
        // A child reports its own status, so the number may be anything.
        case .signaled(let signal, _): (1...64).contains(signal.rawValue) ? signal.description : "unknown"
        case .unknown: "unknown"
        }
    }
}

extension ChildExit {
    var cause: String {
        switch reason {
        case .own: execError == nil ? status.cause : "refused"
        case .timeout: "timeout"
        case .stopped: "stopped"
        }
    }
}

extension ForkingError {
    var cause: String {
        switch detail {
        case .threw: "threw"
        case .ended(let status): status.isSuccess ? "exit" : status.cause
        case .deadlineExceeded: "deadline"
        case .cancelled: "cancelled"
        case .full, .busy: "full"
        case .lost: "lost"
        case .shutDown: "shut_down"
        case .noHandler: "no_handler"
        case .limitRefused: "limit_refused"
        case .system: "system"
        case .invalid: "invalid"
        case .crowded, .threads, .crashLoop, .notEnded, .timedOut, .lineTooLong, .endOfStream: "system"
        }
    }
}

extension PreforkServer.DrainReason {
    var cause: String {
        switch self {
        case .retired: "retired"
        case .age: "age"
        case .memory: "memory"
        case .replaced: "replaced"
        case .excess: "excess"
        case .signalled: "signalled"
        }
    }
}

extension PreforkServer.WorkerEnd {
    var cause: String {
        switch self {
        case .expected: "expected"
        case .failedStart: "failed_start"
        case .crashed: "crashed"
        }
    }
}

extension Zygote.IsolateReport.Reason {
    var cause: String {
        switch self {
        case .closed: "closed"
        case .released: "released"
        case .recycled: "recycled"
        case .killed: "killed"
        case .ended: "ended"
        case .startFailed: "start_failed"
        case .zygoteLost: "zygote_lost"
        }
    }
}
