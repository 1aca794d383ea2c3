// SPDX-License-Identifier: Apache-2.0
//
// The server, which reports its status, and any process that reads it.

import CForkCore
import Glibc
import SystemPackage

/// The status of a server and of its processes at one moment, as `forkserve status` shows it.
///
/// The server's own process gets it from `ForkingServer.status` or `PreforkServer.status`. Other processes read it from
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

    /// The kind of server.
    public internal(set) var shape: Shape
    /// The parent's process ID.
    public internal(set) var pid: ProcessID
    /// The addresses at which clients connect. Empty for a pool that is stopping.
    public internal(set) var addresses: [SocketAddress]
    /// The time since the server started to serve.
    public internal(set) var age: Duration
    /// The stage of its life.
    public internal(set) var phase: Phase
    /// The maximum number of processes, not counting those that are being replaced.
    public internal(set) var maxProcesses: Int
    /// The number of workers that the pool aims for now. Nil for a `ForkingServer`.
    public internal(set) var wanted: Int?
    /// The worst sources of clients, if the server has an `AdmissionPolicy` that keeps accounts of them.
    public internal(set) var sources: [Source] = []
    /// The workers or children, oldest first.
    public internal(set) var processes: [Process] = []

    /// A worker or a child.
    public struct Process: Hashable, Sendable {
        /// The states of a process.
        #if hasAttribute(nonexhaustive)
            @nonexhaustive
        #endif
        public enum State: String, Sendable {
            /// Worker: it is not ready yet.
            case starting
            /// Worker: it is ready and serves no request.
            case idle
            /// Worker: a request is in progress.
            case busy
            /// Worker: it accepts no more, and finishes what it has begun.
            case draining
            /// Worker: it exceeded the timeout of a request or of its heartbeat, and will be killed.
            case stuck
            /// Child: it serves its client.
            case serving
            /// It was sent a signal that should end it.
            case ending
            /// Not a child, but a process that a child, or a descendant of one, has left running.
            case left
            /// It has ended, but a tracer holds it, so that it cannot be reaped. ptrace(2)
            case held
        }

        /// Its process ID.
        public internal(set) var pid: ProcessID
        /// A worker's number in the pool.
        public internal(set) var number: Int?
        /// Its state.
        public internal(set) var state: State
        /// The number of requests that a worker has begun, as the worker reports it.
        public internal(set) var requests: UInt64?
        /// The time in this state; for busy and idle workers, since a request last began or ended. Nil if unknown.
        public internal(set) var inState: Duration?
        /// The time since its fork.
        public internal(set) var age: Duration
        /// The client that it serves, or that a worker served last.
        public internal(set) var peer: SocketAddress?
    }

    /// What counts as one client, and has children or penalties.
    public struct Source: Hashable, Sendable {
        /// An address, a network such as `2001:db8::/64`, or `uid:1000`.
        public internal(set) var name: String
        /// How many children it has.
        public internal(set) var children: Int
        /// How long until its penalties are over; 0 without any.
        public internal(set) var penalty: Duration
        /// Whether it is refused until then.
        public internal(set) var isRefused: Bool
    }

    mutating func sort() { processes.sort { ($1.age, $0.pid) < ($0.age, $1.pid) } }
}

// MARK: - From another process

extension ServerStatus {
    /// Reads the status from a server's control socket. Any process except the server's own, which would wait for
    /// itself. connect(2), recvmsg(2).
    ///
    /// - Parameters:
    ///   - address: the address of the control socket.
    ///   - timeout: how long to wait for the reply. The server replies between two turns of its event loop.
    /// - Throws: `ForkingError.Code.system` from connect(2): ENOENT if there is no socket, ECONNREFUSED if no server
    ///   listens on it, EACCES without permission. `.timedOut`. `.invalid` if the other end is no control socket, or
    ///   does not answer this user.
    public static func read(
        from address: SocketAddress, timeout: Duration = .seconds(5)
    ) throws(ForkingError) -> ServerStatus {
        guard address.isUnix else { throw .invalid("\(address) is not a Unix socket, as control sockets are") }
        guard timeout > .zero else { throw .invalid("timeout is \(timeout), and must be positive") }
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
            throw .invalid("\(address) is not a readable control socket: \(error)")
        }
    }

    /// The maximum size of a reply in bytes: enough for half a million processes.
    private static let longest = 1 << 26

    /// The peer that passed the file may be any process: it must neither block this process nor fill its memory.
    private static func contents(of file: FileDescriptor) throws(ForkingError) -> [UInt8] {
        var found = stat()
        guard fstat(file.rawValue, &found) == 0, found.st_mode & S_IFMT == S_IFREG else {
            throw .invalid("what it passed is not a regular file")
        }
        guard found.st_size <= longest else { throw .invalid("its reply has \(found.st_size) bytes") }
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
