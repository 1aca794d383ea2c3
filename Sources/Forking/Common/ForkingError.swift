// SPDX-License-Identifier: Apache-2.0
//
// Any process.

import CForkCore
public import SystemPackage

#if !os(Linux)
    #error("swift-forking needs Linux: it uses signalfd, pidfd, epoll and PR_SET_PDEATHSIG")
#endif

/// The error that `Forking` throws. Any process. `code` is the kind of failure; `description` is one line for people.
///
/// ```swift
/// do { try server.serve() } catch let error where error.code == .threads { … }
/// ```
///
/// Details are properties, which are nil for codes that do not have them.
public struct ForkingError: Error, Hashable, Sendable {
    package let detail: Detail

    /// The details of each kind.
    package enum Detail: Hashable, Sendable {
        case system(call: String, Errno)
        case invalid(String)
        case full(limit: Int)
        case busy(children: Int, waiting: Int)
        case crowded
        case threads(count: Int)
        case crashLoop(failures: Int)
        case notEnded([ProcessID])
        case timedOut
        case lineTooLong(limit: Int)
        case endOfStream(received: Int, expected: Int)
        indirect case threw(type: String, description: String)
        case ended(ExitStatus)
        case deadlineExceeded(Duration)
        case cancelled
        case lost(nextStart: Duration?)
        case shutDown
        indirect case noHandler(String, known: [String])
        case limitRefused(call: String, Errno)
    }

    package init(_ detail: Detail) { self.detail = detail }

    /// The kinds of failures. Versions may add some: a `switch` over them needs a `default`.
    public struct Code: Hashable, Sendable {
        private enum Value {
            case system, invalid, full, crowded, threads, crashLoop, notEnded, timedOut, lineTooLong, endOfStream
            case handlerThrew, childEnded, deadlineExceeded, cancelled, zygoteLost, shutDown, noHandler, limitRefused
        }
        private let value: Value

        /// A system call failed: see `errno` and `call`.
        public static let system = Code(value: .system)
        /// An argument, an address, a configuration or a message is invalid; the description says what is expected.
        public static let invalid = Code(value: .invalid)
        /// All slots are taken: there are as many children as allowed and, for a zygote, as many waiting calls.
        public static let full = Code(value: .full)
        /// Too many spawned children have not called execve(2) yet, which takes longer than a millisecond only on a
        /// slow file system. Try again when one has called it or ended. Also thrown while a descriptor that a client
        /// attached is being closed, because no program may inherit it.
        public static let crowded = Code(value: .crowded)
        /// This process has more than one thread, and a child forked from it could hang on a lock that another thread
        /// holds.
        public static let threads = Code(value: .threads)
        /// Too many workers in a row failed at their start, and the server stopped.
        public static let crashLoop = Code(value: .crashLoop)
        /// The processes in `processIDs` are still alive: they were sent SIGKILL, or may not be signalled.
        public static let notEnded = Code(value: .notEnded)
        /// The peer of a connection neither sent nor accepted data within the connection's timeout.
        public static let timedOut = Code(value: .timedOut)
        /// A line is longer than the caller allows.
        public static let lineTooLong = Code(value: .lineTooLong)
        /// The stream ended before the requested number of bytes had arrived.
        public static let endOfStream = Code(value: .endOfStream)

        /// A zygote's handler threw: see `thrown`.
        public static let handlerThrew = Code(value: .handlerThrew)
        /// A zygote's child ended before it replied: by a trap, a signal or exit(3). See `exitStatus`.
        public static let childEnded = Code(value: .childEnded)
        /// A call's deadline passed. If the call had a child, it was killed.
        public static let deadlineExceeded = Code(value: .deadlineExceeded)
        /// `Zygote.Call.cancel()` was called, or the task was cancelled. If the call had a child of its own, that was
        /// killed.
        public static let cancelled = Code(value: .cancelled)
        /// The zygote ended during the call, or there is none at the moment. The next call starts a new one, at once or
        /// after `retryAfter`.
        public static let zygoteLost = Code(value: .zygoteLost)
        /// The zygote was shut down, or the isolate was closed.
        public static let shutDown = Code(value: .shutDown)
        /// The zygote has no handler with this name.
        public static let noHandler = Code(value: .noHandler)
        /// A child could not apply its `ResourceLimits`: see `errno` and `call`.
        public static let limitRefused = Code(value: .limitRefused)
    }

    /// The kind of failure.
    public var code: Code {
        switch detail {
        case .system: .system
        case .invalid: .invalid
        case .full, .busy: .full
        case .crowded: .crowded
        case .threads: .threads
        case .crashLoop: .crashLoop
        case .notEnded: .notEnded
        case .timedOut: .timedOut
        case .lineTooLong: .lineTooLong
        case .endOfStream: .endOfStream
        case .threw: .handlerThrew
        case .ended: .childEnded
        case .deadlineExceeded: .deadlineExceeded
        case .cancelled: .cancelled
        case .lost: .zygoteLost
        case .shutDown: .shutDown
        case .noHandler: .noHandler
        case .limitRefused: .limitRefused
        }
    }

    // MARK: Details

    /// The kernel's error, for `.system` and `.limitRefused`. errno(3)
    public var errno: Errno? {
        switch detail {
        case .system(_, let number), .limitRefused(_, let number): number
        default: nil
        }
    }

    /// The call that failed, with its argument where that helps, for `.system` and `.limitRefused`.
    public var call: String? {
        switch detail {
        case .system(let call, _), .limitRefused(let call, _): call
        default: nil
        }
    }

    /// How the child ended, for `.childEnded`.
    public var exitStatus: ExitStatus? { if case .ended(let status) = detail { status } else { nil } }

    /// The type and the description of what the handler threw, as the child reports them, for `.handlerThrew`.
    public var thrown: (type: String, description: String)? {
        if case .threw(let type, let text) = detail { (type, text) } else { nil }
    }

    /// The processes that are still alive, for `.notEnded`.
    public var processIDs: [ProcessID] { if case .notEnded(let pids) = detail { pids } else { [] } }

    /// How long until the next start of a zygote, for `.zygoteLost`; nil: the next call starts one.
    public var retryAfter: Duration? { if case .lost(let pause) = detail { pause } else { nil } }
}

extension ForkingError {
    /// Makes an error for your own code, such as a hook. `text` is one line: what is invalid, and what is expected.
    public static func invalid(_ text: String) -> ForkingError { ForkingError(.invalid(text)) }
    /// Makes an error for your own code from a failed system call and its error number.
    public static func system(call: String, _ number: Errno) -> ForkingError {
        ForkingError(.system(call: call, number))
    }

    package static func full(limit: Int) -> ForkingError { ForkingError(.full(limit: limit)) }
    package static func full(children: Int, waiting: Int) -> ForkingError {
        ForkingError(.busy(children: children, waiting: waiting))
    }
    package static let crowded = ForkingError(.crowded)
    package static func threads(count: Int) -> ForkingError { ForkingError(.threads(count: count)) }
    package static func crashLoop(failures: Int) -> ForkingError { ForkingError(.crashLoop(failures: failures)) }
    package static func notEnded(_ pids: [ProcessID]) -> ForkingError { ForkingError(.notEnded(pids)) }
    package static let timedOut = ForkingError(.timedOut)
    package static func lineTooLong(limit: Int) -> ForkingError { ForkingError(.lineTooLong(limit: limit)) }
    package static func endOfStream(received: Int, expected: Int) -> ForkingError {
        ForkingError(.endOfStream(received: received, expected: expected))
    }
    package static func threw(type: String, description: String) -> ForkingError {
        ForkingError(.threw(type: type, description: description))
    }
    package static func ended(_ status: ExitStatus) -> ForkingError { ForkingError(.ended(status)) }
    package static func deadlineExceeded(_ deadline: Duration) -> ForkingError {
        ForkingError(.deadlineExceeded(deadline))
    }
    package static let cancelled = ForkingError(.cancelled)
    package static func lost(nextStart: Duration?) -> ForkingError { ForkingError(.lost(nextStart: nextStart)) }
    package static let shutDown = ForkingError(.shutDown)
    package static func noHandler(_ name: String, known: [String]) -> ForkingError {
        ForkingError(.noHandler(name, known: known))
    }
    package static func limitRefused(call: String, _ number: Errno) -> ForkingError {
        ForkingError(.limitRefused(call: call, number))
    }
}

extension ForkingError: CustomStringConvertible {
    /// One line for people, without a newline.
    public var description: String {
        switch detail {
        case .system(let call, .resourceTemporarilyUnavailable) where call == "fork" || call == "clone":
            "\(call): too many processes or threads (ulimit -u, pids.max, systemd's TasksMax)"
        case .system(let call, let number): "\(call): \(number)"
        case .invalid(let text): text
        case .full(let limit): "the child table is full: \(limit) of \(limit) children"
        case .busy(let children, let waiting): "\(children) children are busy, and \(waiting) calls wait: no more may"
        case .crowded:
            "execve: no more than \(FORKCORE_SPAWN_SLOTS) programs can be on their way to be executed, and none while a "
                + "descriptor that a client attached is being closed"
        case .threads(let count):
            "this process has \(count) threads, and a child forked from it could hang on a lock of another thread: "
                + "fork before the first thread starts (no Task, no Dispatch queue, no Thread before)"
        case .crashLoop(let failures): "gave up, because \(failures) workers in a row failed at their start"
        case .notEnded(let pids): "stopped, but these processes could not be ended: \(pids)"
        case .timedOut: "timed out waiting for the peer"
        case .lineTooLong(let limit): "the peer sent a line of more than \(limit) bytes"
        case .endOfStream(let received, let expected): "the peer closed after \(received) of \(expected) bytes"
        case .threw(let type, let text): "the handler threw \(Self.printable(type)): \(Self.printable(text))"
        case .ended(let status): "the child ended before it replied: \(status)"
        case .deadlineExceeded(let time): "no reply within \(time.inSeconds), waiting for a slot included"
        case .cancelled: "the call was cancelled"
        case .lost(nil): "the zygote ended; the next call starts another"
        case .lost(let pause?): "the zygote ended before it was ready; the next start is in \(pause.inSeconds)"
        case .shutDown: "the zygote was shut down, or the isolate closed"
        case .noHandler(let name, let known):
            "there is no handler '\(Self.printable(name))'; there is "
                + (known.isEmpty ? "none" : Self.printable(known.joined(separator: ", ")))
        case .limitRefused(let call, let number): "a limit could not be applied: \(Self.printable(call)): \(number)"
        }
    }

    /// Text from a child, which an attacker may control: it can neither end the line nor be of any length.
    package static func printable(_ text: String) -> String { SocketAddress.printable(text, atMost: 1000) }
}

extension ForkingError {
    /// Whether the peer of a connection caused this: it closed, was silent for too long, or sent invalid data. This is
    /// not the server's trouble, and any peer can cause it as often as it likes.
    public var isPeersDoing: Bool {
        switch detail {
        case .timedOut, .lineTooLong, .endOfStream: true
        case .system(_, let number): Errno.departures.contains(number)
        default: false
        }
    }

    /// Whether this is a shortage that may be over in a moment. fork(2) and clone(2) return EAGAIN if there are too
    /// many processes.
    var isShortage: Bool {
        switch detail {
        case .crowded: true
        case .system(_, let number): number == .resourceTemporarilyUnavailable || Errno.shortages.contains(number)
        default: false
        }
    }
}

extension Errno {
    /// Errors of a connection whose peer has closed, has reset it, or cannot be reached.
    static let departures: [Errno] = [
        .brokenPipe, .connectionReset, .socketNotConnected, .connectionAbort, .timedOut, .noRouteToHost,
        .networkUnreachable,
        .connectionRefused,
    ]

    /// Shortages that end when this process or another one releases something.
    static let shortages: [Errno] = [.tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory, .noBufferSpace]
}
