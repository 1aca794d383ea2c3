// SPDX-License-Identifier: Apache-2.0
//
// Any process: events as lines of swift-log. Events below the log level cost nothing, and this code starts no thread.
//
// Logging blocks as long as the program's log handler does, and with it the parent's only thread. Most handlers, such
// as StreamLogHandler, write to stderr, and block if that is a full pipe or a stopped terminal. A handler for a parent
// must write with `Lines.tell`, or without blocking in another way.

public import Forking
public import Logging
import SystemPackage

extension Logger {
    /// Logs the events of a `ForkingServer`: `server.hooks.onEvent = { logger.record($1) }`. Parent.
    ///
    /// Blocks as long as the log handler does, and the server with it: see `Lines`.
    ///
    /// Events that an operator should see are warnings or errors, the server's own life is info, and children are
    /// debug. Details are metadata: `pid`, `peer`, `exit_status` or `signal`, `reason`, `duration_ms`, `cpu_ms`,
    /// `max_rss_kib`, `error` …
    public func record(_ event: ForkingServer.Event) {
        log(level: Level(event.severity), event.message, metadata: event.metadata)
    }

    /// Logs the events of a `PreforkServer`: `server.hooks.onEvent = { logger.record($1) }`. Parent.
    ///
    /// As for a `ForkingServer`, except that the life of each worker is info too, because there are few.
    public func record(_ event: PreforkServer.Event) {
        log(level: Level(event.severity), event.message, metadata: event.metadata)
    }

    /// Logs the events of a zygote: `hooks.onEvent = { logger.record($0) }`. Host, any thread.
    ///
    /// A zygote's life is info, its loss a warning or an error. Each call is debug, or a warning if its child crashed
    /// or could not be forked. Details are metadata: `pid`, `handler`, `failure`, `duration_ms`, `fork_us` …
    public func record(_ event: Zygote.Event) {
        log(level: Level(event.severity), event.message, metadata: event.metadata)
    }
}

extension Logger.Level {
    /// The level for an event's severity.
    fileprivate init(_ severity: EventSeverity) {
        self =
            switch severity {
            case .debug: .debug
            case .info: .info
            case .warning: .warning
            case .error: .error
            }
    }
}

// MARK: - ForkingServer

extension ForkingServer.Event {
    var message: Logger.Message {
        switch self {
        case .serving: "serving"
        case .forked: "child forked"
        case .ended: "child ended"
        case .refused: "client refused by the admission policy"
        case .refusals: "clients refused by the admission policy"
        case .rulesRead: "the address rules were read again"
        case .rulesFailed: "the address rules stay as they were, as they cannot be read"
        case .rejected: "client refused"
        case .verifyFailed: "client refused, because the verify hook failed"
        case .beforeForkFailed: "the hook before the fork failed"
        case .forkFailed: "connection closed, because no child could be created"
        case .shortage: "clients wait because of a shortage"
        case .upgrading: "upgrading: started a new program"
        case .upgraded: "upgraded: the new program serves"
        case .upgradeFailed: "not upgraded"
        case .listeningAgain: "a listener was shut down by a process that shares it, and listens again"
        case .stopping: "stopping"
        case .abandoned: "children are left alive, because they could not be ended"
        case .trouble(let trouble): trouble.message
        }
    }

    var metadata: Logger.Metadata {
        switch self {
        case .serving(let addresses): ["addresses": .array(addresses.map { .string("\($0)") })]
        case .forked(let pid, let peer): ["pid": .number(pid), "peer": .string("\(peer)")]
        case .ended(let exit): exit.metadata
        case .refused(let peer, let reason): ["peer": .string("\(peer)"), "reason": .string(reason.name)]
        case .refusals(let refusals): refusals.metadata
        case .rulesRead: [:]
        case .rulesFailed(let error): ["error": .text("\(error)")]
        case .rejected(let peer): ["peer": .string("\(peer)")]
        case .verifyFailed(let peer, let error): ["peer": .string("\(peer)"), "error": .text("\(error)")]
        case .forkFailed(let peer, let error): ["peer": .string("\(peer)"), "error": .text("\(error)")]
        case .beforeForkFailed(let error): ["error": .text("\(error)")]
        case .shortage(let error): ["error": .text("\(error)")]
        case .upgrading(let pid), .upgraded(let pid): ["pid": .number(pid)]
        case .upgradeFailed(let why): ["error": .text(why)]
        case .listeningAgain(let address): ["address": .string("\(address)")]
        case .stopping(let step): ["step": .string("\(step)")]
        case .abandoned(let pids): ["pids": .array(pids.map { .number($0) })]
        case .trouble(let trouble): trouble.metadata
        }
    }
}

extension AdmissionPolicy.Refusals {
    fileprivate var metadata: Logger.Metadata {
        var metadata: Logger.Metadata = [:]
        for (reason, count) in counts { metadata[reason.name] = .number(count) }
        if let worst { metadata["worst"] = .string(worst) }
        return metadata
    }
}

extension ChildTrouble {
    var message: Logger.Message {
        switch self {
        case .held: "ended, but cannot be reaped, because another process traces it"
        case .notPermitted: "cannot be ended, because it runs as another user"
        }
    }

    var metadata: Logger.Metadata {
        switch self {
        case .held(let pid, let peer), .notPermitted(let pid, let peer):
            ["pid": .number(pid)].merging(peer.metadata) { $1 }
        }
    }
}

// MARK: - PreforkServer

extension PreforkServer.Event {
    var message: Logger.Message {
        switch self {
        case .serving: "serving"
        case .forked: "worker forked"
        case .ready: "worker ready"
        case .draining: "worker drains"
        case .ended: "worker ended"
        case .forkFailed: "no worker could be forked"
        case .notReady: "worker was not ready within startTimeout, and is killed"
        case .stuck: "worker is stuck, and is ended"
        case .overdue: "worker takes too long to drain, and is ended"
        case .listeningAgain: "a listener was shut down by a process that shares it, and listens again"
        case .crashLoop: "workers fail at their start"
        case .resized: "number of workers changed"
        case .replacing: "replacing all workers"
        case .replaced: "all workers were replaced"
        case .replacingFailed: "the reload has failed, and the old workers stay"
        case .upgrading: "upgrading: started a new program"
        case .upgraded: "upgraded: the new program serves"
        case .upgradeFailed: "not upgraded"
        case .stopping: "stopping"
        case .abandoned: "workers are left alive, because they could not be ended"
        case .trouble(let trouble): trouble.message
        }
    }

    var metadata: Logger.Metadata {
        switch self {
        case .serving(let addresses): ["addresses": .array(addresses.map { .string("\($0)") })]
        case .forked(let pid, let number), .ready(let pid, let number):
            ["pid": .number(pid), "number": .number(number)]
        case .draining(let pid, let reason): ["pid": .number(pid), "reason": .string(reason.cause)]
        case .ended(let exit, let end): exit.metadata.merging(["end": .string(end.cause)]) { $1 }
        case .forkFailed(let error): ["error": .text("\(error)")]
        case .notReady(let pid), .upgrading(let pid), .upgraded(let pid): ["pid": .number(pid)]
        case .stuck(let pid, let time, let peer):
            ["pid": .number(pid), "duration_ms": .milliseconds(time)].merging(peer.metadata) { $1 }
        case .overdue(let pid, let reason, let time, let peer):
            ["pid": .number(pid), "reason": .string(reason.cause), "duration_ms": .milliseconds(time)]
                .merging(peer.metadata) { $1 }
        case .listeningAgain(let address): ["address": .string("\(address)")]
        case .crashLoop(let failures, let pause): ["failures": .number(failures), "pause_ms": .milliseconds(pause)]
        case .resized(let count): ["workers": .number(count)]
        case .replacing, .replaced: [:]
        case .replacingFailed(let why), .upgradeFailed(let why): ["error": .text(why)]
        case .stopping(let step): ["step": .string("\(step)")]
        case .abandoned(let pids): ["pids": .array(pids.map { .number($0) })]
        case .trouble(let trouble): trouble.metadata
        }
    }
}

// MARK: - Zygote

extension Zygote.Event {
    var message: Logger.Message {
        switch self {
        case .started: "zygote started"
        case .lost: "zygote lost"
        case .startFailed: "no zygote could be started"
        case .began: "call has a slot"
        case .rejected: "call refused, because too many wait"
        case .contextCut: "call goes without a part of its context, which is too long"
        case .finished(let report): report.failure == nil ? "call answered" : "call failed"
        case .isolateStarted: "isolate started"
        case .isolateEnded(let report): report.pause == nil ? "isolate ended" : "isolate ended, and is started again"
        case .ended: "zygote ended"
        }
    }

    var metadata: Logger.Metadata {
        switch self {
        case .started(let pid), .ended(let pid): ["pid": .number(pid)]
        case .lost(let pid, let status, let failures, let pause):
            ["pid": .number(pid), "failures": .number(failures), "pause_ms": .milliseconds(pause)]
                .merging(status.metadata) { $1 }
        case .startFailed(let error): ["error": .text("\(error)")]
        case .began(let handler), .rejected(let handler): ["handler": .string(handler)]
        case .contextCut(let handler, let leftOut): ["handler": .string(handler), "left_out": .number(leftOut)]
        case .finished(let report): report.metadata
        case .isolateStarted(let handler, let number):
            ["handler": .string(handler), "isolate": .number(number)]
        case .isolateEnded(let report): report.metadata
        }
    }
}

extension Zygote.IsolateReport {
    fileprivate var metadata: Logger.Metadata {
        var metadata: Logger.Metadata = [
            "handler": .string(handler), "isolate": .number(isolate), "reason": .string(reason.cause),
            "calls": .number(calls), "duration_ms": .milliseconds(duration),
        ]
        if let pause { metadata["pause_ms"] = .milliseconds(pause) }
        if let usage { metadata.merge(usage.metadata) { $1 } }
        if let status { metadata.merge(status.metadata) { $1 } }
        if let failure, severity >= .warning { metadata["error"] = .text("\(failure)") }
        return metadata
    }
}

extension Zygote.CallReport {
    fileprivate var metadata: Logger.Metadata {
        var metadata: Logger.Metadata = ["handler": .string(handler), "duration_ms": .milliseconds(duration)]
        if let isolate { metadata["isolate"] = .number(isolate) }
        if let waited { metadata["waited_ms"] = .milliseconds(waited) }
        if let forkTime { metadata["fork_us"] = .number(forkTime.inNanoseconds / 1000) }
        if let usage { metadata.merge(usage.metadata) { $1 } }
        guard let failure else { return metadata }
        metadata["failure"] = .string(failure.cause)
        metadata["error"] = .text("\(failure)")
        if let status = failure.exitStatus { metadata.merge(status.metadata) { $1 } }
        return metadata
    }
}

// MARK: - What they have in common

extension ChildExit {
    fileprivate var metadata: Logger.Metadata {
        var metadata = status.metadata.merging(peer.metadata) { $1 }
        metadata["pid"] = .number(pid)
        metadata["reason"] = .string("\(reason)")
        metadata["duration_ms"] = .milliseconds(duration)
        if let execError { metadata["error"] = .text("\(execError)") }
        if let usage { metadata.merge(usage.metadata) { $1 } }
        return metadata
    }
}

extension ExitStatus {
    fileprivate var metadata: Logger.Metadata {
        switch self {
        case .exited(let code): ["exit_status": .number(code)]
        case .signaled(let signal, let dumpedCore):
            dumpedCore
                ? ["signal": .string("\(signal)"), "dumped_core": "true"] : ["signal": .string("\(signal)")]
        case .unknown: ["exit_status": "unknown"]
        }
    }
}

extension ResourceUsage {
    fileprivate var metadata: Logger.Metadata {
        ["cpu_ms": .milliseconds(userTime + systemTime), "max_rss_kib": .number(maxResidentKiB)]
    }
}

extension Optional<SocketAddress> {
    fileprivate var metadata: Logger.Metadata { map { ["peer": .string("\($0)")] } ?? [:] }
}

extension Logger.MetadataValue {
    fileprivate static func number(_ number: some BinaryInteger) -> Self { .string(String(number)) }

    /// With three decimal places.
    fileprivate static func milliseconds(_ duration: Duration) -> Self {
        let microseconds = duration.inNanoseconds / 1000
        let fraction = String(microseconds % 1000)
        let zeros = String(repeating: "0", count: max(0, 3 - fraction.utf8.count))
        return .string("\(microseconds / 1000)." + zeros + fraction)
    }

    /// Text from others, such as a handler that throws or a compromised child. It can neither end the line nor fill the
    /// log.
    fileprivate static func text(_ text: String) -> Self { .string(SocketAddress.printable(text, atMost: 1000)) }
}
