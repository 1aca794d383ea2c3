// SPDX-License-Identifier: Apache-2.0

import CForkCore
public import SystemPackage

#if !os(Linux)
    #error("swift-forking needs Linux: it stands on signalfd, pidfd, epoll and PR_SET_PDEATHSIG")
#endif

/// What `Forking` throws. Its `description` is one line for people.
public enum ForkingError: Error, Hashable, Sendable {
    /// The system refused a call. `call` names it, and what it was made on where that helps.
    case system(call: String, Errno)
    /// An argument, an address or a configuration that cannot be; the text says what would be right.
    case invalid(String)
    /// The child table holds as many children as it may.
    case full(limit: Int)
    /// As many programs as can be are on their way to be executed: mostly for less than a millisecond, but for longer where a file
    /// system is slow. One that has come through, or has ended, makes room. The same where a descriptor that a client attached is
    /// about to be closed, which no program is to have a copy of.
    case crowded
    /// This process has more than one thread, and a child forked from it could hang on a lock that another one held.
    case threads(count: Int)
    /// So many workers in a row failed at their start, and the server gave up.
    case crashLoop(failures: Int)
    /// These processes live, though they were to end: they were sent SIGKILL, or may not be signalled.
    case notEnded([ProcessID])
    /// The peer sent, or took, nothing for as long as the connection's time-out.
    case timedOut
    /// A line is longer than the reader allows, in bytes.
    case lineTooLong(limit: Int)
    /// The stream ended before all that was asked for had come.
    case endOfStream(received: Int, expected: Int)
}

extension ForkingError: CustomStringConvertible {
    /// One line for people, without a newline.
    public var description: String {
        switch self {
        case .system(let call, let code):
            return "\(call): \(code)"
        case .invalid(let text):
            return text
        case .full(let limit):
            return "the child table is full: \(limit) of \(limit) children"
        case .crowded:
            return "execve: \(FORKCORE_BERTHS) programs are on their way to be executed, and no more can be"
        case .threads(let count):
            return
                "this process has \(count) threads, and a child forked from it could hang on a lock of another thread: "
                + "fork before the first thread starts (no Task, no Dispatch queue, no Thread before)"
        case .crashLoop(let failures):
            return "gave up, as \(failures) workers in a row failed at their start"
        case .notEnded(let pids):
            return "stopped, but these processes could not be ended: \(pids)"
        case .timedOut:
            return "timed out waiting for the peer"
        case .lineTooLong(let limit):
            return "the peer sent a line of more than \(limit) bytes"
        case .endOfStream(let received, let expected):
            return "the peer closed after \(received) of \(expected) bytes"
        }
    }
}

extension ForkingError {
    /// Whether the peer of a connection brought this about: it has gone, was silent for too long, or sent what cannot be. That
    /// is no trouble of the server's, and anybody can bring it about, as often as they like.
    public var isPeersDoing: Bool {
        switch self {
        case .timedOut, .lineTooLong, .endOfStream: true
        case .system(_, let code): Errno.departures.contains(code)
        case .invalid, .full, .crowded, .threads, .crashLoop, .notEnded: false
        }
    }
}

extension Errno {
    /// What a connection says whose peer has gone: closed, reset, or found to be out of reach.
    static let departures: [Errno] = [
        .brokenPipe, .connectionReset, .socketNotConnected, .connectionAbort, .timedOut, .noRouteToHost,
        .networkUnreachable,
        .connectionRefused,
    ]

    /// What another process, or this one, may give back in a moment.
    static let shortages: [Errno] = [.tooManyOpenFiles, .tooManyOpenFilesInSystem, .noMemory, .noBufferSpace]
}

extension ForkingError {
    /// Whether it is for want of something that may be there again in a moment. EAGAIN: of processes, which fork and clone
    /// call so.
    var isShortage: Bool {
        switch self {
        case .crowded: true
        case .system(_, let code): code == .resourceTemporarilyUnavailable || Errno.shortages.contains(code)
        default: false
        }
    }
}
