// SPDX-License-Identifier: Apache-2.0
//
// The server, which is asked, and any process that asks.

import CForkCore
import Glibc
import SystemPackage

/// What a server tells of itself and of its processes, at one moment. `forkserve status` shows it.
///
/// In the server's own process it is `ForkingServer.status` or `PreforkServer.status`; another process reads it from
/// the server's control socket, `Configuration.control`.
public struct ServerStatus: Hashable, Sendable {
    /// Kinds of servers.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Shape: String, Sendable {
        /// A child for each client: `ForkingServer`.
        case forking
        /// A pool of workers: `PreforkServer`.
        case prefork
    }

    /// The stages of a server's life.
    #if hasAttribute(nonexhaustive)
        @nonexhaustive
    #endif
    public enum Phase: String, Sendable { case serving, stopping }

    /// What kind of server it is.
    public internal(set) var shape: Shape
    /// The parent's.
    public internal(set) var pid: ProcessID
    /// Where clients come to; a pool that stops has none any more.
    public internal(set) var addresses: [SocketAddress]
    /// Since it began to serve.
    public internal(set) var age: Duration
    /// Where it is in its life.
    public internal(set) var phase: Phase
    /// How many processes there may be, but for those that are being replaced.
    public internal(set) var maxProcesses: Int
    /// How many workers there should be now. Nil where there are children.
    public internal(set) var wanted: Int?
    /// The workers or children, the oldest first.
    public internal(set) var processes: [Process] = []

    /// A worker, or a child.
    public struct Process: Hashable, Sendable {
        /// What a process can be doing.
        #if hasAttribute(nonexhaustive)
            @nonexhaustive
        #endif
        public enum State: String, Sendable {
            /// Worker: it is not ready yet.
            case starting
            /// Worker: it has nothing to do.
            case idle
            /// Worker: it has begun a request that has not ended.
            case busy
            /// Worker: it takes no more, and finishes what it has begun.
            case draining
            /// Worker: it is over a limit for requests or heartbeats, and will be ended, or is being so.
            case stuck
            /// Child: it serves its client.
            case serving
            /// It was sent a signal to end it.
            case ending
            /// Not a child itself, but what one that has ended, or one's descendant, has left running.
            case left
            /// It has ended, but another process traces it, so that it cannot be reaped.
            case held
        }

        /// Its number.
        public internal(set) var pid: ProcessID
        /// A worker's place in the pool.
        public internal(set) var number: Int?
        /// What it does.
        public internal(set) var state: State
        /// How many requests a worker has begun, as it says itself.
        public internal(set) var requests: UInt64?
        /// How long it has been in this state, busy and idle ones since a request began or ended last. Nil where nobody
        /// has noted it.
        public internal(set) var inState: Duration?
        /// Since it was forked.
        public internal(set) var age: Duration
        /// Whom it serves, or a worker served last.
        public internal(set) var peer: SocketAddress?
    }

    mutating func sort() { processes.sort { ($1.age, $0.pid) < ($0.age, $1.pid) } }
}

// MARK: - From another process

extension ServerStatus {
    /// Asks a server by its control socket. Any process but the server's own, which would wait for itself.
    ///
    /// - Parameters:
    ///   - address: the control socket's.
    ///   - timeout: how long to wait for an answer, which comes between two turns of the server's loop.
    /// - Throws: `ForkingError.Code.system` from connect(2), with ENOENT where there is no socket, ECONNREFUSED where
    ///   nobody listens, EACCES where one may not; `.timedOut`; `.invalid` if what answers is no such server, or does
    ///   not answer this user.
    public static func read(
        from address: SocketAddress, timeout: Duration = .seconds(5)
    ) throws(ForkingError) -> ServerStatus {
        guard address.isUnix else { throw .invalid("\(address) is not a Unix socket, as control sockets are") }
        guard timeout > .zero else { throw .invalid("a time-out of \(timeout) cannot be: it must be positive") }
        forkcore_occupy_standard_descriptors()
        var socket: Int32 = -1
        let code = address.withSockaddr { forkcore_connect($0, $1, max(1, timeout.inNanoseconds / 1000), &socket) }
        if code == EAGAIN { throw .timedOut }
        try check(code, "connect \(address)")
        defer { forkcore_close(socket) }
        return try read(on: socket, of: address)
    }

    /// The same, on a connected socket.
    static func read(on socket: Int32, of address: SocketAddress) throws(ForkingError) -> ServerStatus {
        var file: Int32 = -1
        var byte: UInt8 = 0
        switch forkcore_take_over(socket, &file, &byte, 1) {
        case 0: break
        case EAGAIN: throw .timedOut
        case ESHUTDOWN, ECONNRESET:
            throw .invalid(
                "\(address) closed without an answer: it is no control socket, or its server lacks descriptors or memory"
            )
        case EBADMSG, EMSGSIZE: throw .invalid("\(address) is not a control socket: something else answers there")
        case let code: throw .system(call: "recvmsg", Errno(rawValue: code))
        }
        defer { forkcore_close(file) }
        do throws(ForkingError) {
            return try ServerStatus(text: contents(of: FileDescriptor(rawValue: file)))
        } catch let error where error.code == .invalid {
            throw .invalid("\(address) is not a control socket that can be read: \(error)")
        }
    }

    /// Enough for half a million processes.
    private static let longest = 1 << 26

    /// Whoever handed the file over may be anybody: it is not to keep us waiting, nor to fill our memory.
    private static func contents(of file: FileDescriptor) throws(ForkingError) -> [UInt8] {
        var found = stat()
        guard fstat(file.rawValue, &found) == 0, found.st_mode & S_IFMT == S_IFREG else {
            throw .invalid("what it handed over is no file")
        }
        guard found.st_size <= longest else { throw .invalid("its answer has \(found.st_size) bytes") }
        do {
            return try [UInt8](unsafeUninitializedCapacity: Int(found.st_size)) { buffer, filled in
                while filled < buffer.count {
                    let rest = UnsafeMutableRawBufferPointer(rebasing: UnsafeMutableRawBufferPointer(buffer)[filled...])
                    let count = try file.read(fromAbsoluteOffset: Int64(filled), into: rest)
                    if count == 0 { break }
                    filled += count
                }
            }
        } catch {
            throw .system(call: "pread", error as? Errno ?? .ioError)
        }
    }
}
