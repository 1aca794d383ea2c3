// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
public import SystemPackage

/// A socket that clients connect or send to: a listening TCP or Unix stream socket, or a bound UDP or Unix datagram
/// socket.
///
/// The socket is closed when the listener is released, in every process that has it. If the listener created a Unix
/// socket's file, the file is removed too, except by a child.
public struct Listener: ~Copyable {
    /// Options for the socket. See socket(7), ip(7), unix(7).
    public struct Options: Sendable {
        /// The maximum number of connections that the kernel queues until they are accepted. The kernel limits it to
        /// net.core.somaxconn. listen(2).
        public var backlog: Int = 1024
        /// Allow binding a port while old connections of its previous owner linger. SO_REUSEADDR.
        public var reusesAddress = true
        /// Share the port with other sockets that set this option too. SO_REUSEPORT.
        public var reusesPort = false
        /// Refuse IPv4 clients on an IPv6 socket bound to `[::]`. IPV6_V6ONLY.
        public var isIPv6Only = false
        /// Allow clients of a Unix socket to attach descriptors (SCM_RIGHTS), for a handler or program that receives
        /// them by recvmsg(2). If false, a client that tries gets EPERM from Linux 6.16 on: SO_PASSRIGHTS.
        public var acceptsDescriptors = false
        /// The permissions of a Unix socket's file; nil leaves them to the umask. chmod(2).
        public var permissions: FilePermissions?
        /// How vanished clients are detected; nil: not at all. Connections inherit this from their listener.
        public var keepAlive: KeepAlive? = KeepAlive()
        /// How long sent data may stay unacknowledged, or unsent because the client does not read; then the connection
        /// ends. Nil: about 15 minutes if the client's host does not respond, and no limit if it does.
        /// TCP_USER_TIMEOUT.
        public var userTimeout: Duration?
        /// The group ID of a Unix socket's file; nil leaves it. Requires root for a group that this user is not in.
        /// chown(2).
        public var group: UInt32?

        /// The defaults, as documented at each property.
        public init() {}
    }

    /// The address it is bound to. If port 0 was requested, this has the port that the kernel chose.
    public let address: SocketAddress
    /// Whether this is a datagram socket, not a stream socket.
    public let isDatagram: Bool

    private let socket: ParentDescriptor
    private let file: SocketFile?
    /// The origin of a listener's socket.
    enum Origin: Equatable {
        /// This program, or its predecessor, created it.
        case made
        /// A service manager passed it under this name.
        case manager(name: String)
        /// The process that started the first program in a chain of upgrades left it open, under this number.
        case descriptor(Int32)
    }

    let origin: Origin
    private var backlog = Options().backlog
    /// True if another program created the socket; that program may continue to use it.
    var isAdopted: Bool { origin != .made }
    /// Whether clients may have attached descriptors that were never received.
    let mayHoldRights: Bool
    /// True while the predecessor still serves on this socket and therefore owns it.
    private var isAnothers = false

    /// The descriptor, for an event loop to poll. The listener owns it.
    public var descriptor: FileDescriptor { FileDescriptor(rawValue: socket.rawValue) }

    /// Listens on `address`; with `datagram`, only binds to it. Uses the socket that was handed over to this process if
    /// one is bound there (see `InheritedSockets`), otherwise a new one. socket(2), bind(2), listen(2).
    ///
    /// A server can therefore be upgraded while it serves, or be started by a service manager, without code of its own.
    /// Port 0 means a new port; in a successor, it means the port that the kernel chose for the predecessor.
    ///
    /// If a Unix socket's file exists, it is replaced if no server listens on it any more, and left alone otherwise. If
    /// this throws, no descriptor stays open.
    ///
    /// - Throws: `ForkingError.Code.system`, which names the call and the address; `.invalid` for a backlog below 1,
    ///   for a path that is in use or is not a socket, or if the variables that hand over sockets are malformed.
    public init(_ address: SocketAddress, datagram: Bool = false, options: Options = Options()) throws(ForkingError) {
        guard options.backlog >= 1, options.backlog <= Int32.max else {
            throw .invalid("backlog is \(options.backlog), and must be from 1 to \(Int32.max)")
        }
        if let inherited = try InheritedSockets.listener(on: address, datagram: datagram, options: options) {
            self = inherited
            return
        }
        let (socket, file) = try Self.open(address, datagram, options)
        try self.init(
            socket, file, isDatagram: datagram, mayHoldRights: forkcore_takes_rights(socket.rawValue))
        backlog = options.backlog
    }

    /// Takes over a socket that a service manager, the parent or the program itself has bound. The listener owns and
    /// closes it from now on, but never removes its file.
    ///
    /// In a successor, this is the socket that the predecessor adopted as `descriptor`, whatever its number is here.
    ///
    /// - Parameters:
    ///   - descriptor: the socket.
    ///   - acceptsDescriptors: see `Options.acceptsDescriptors`.
    /// - Throws: `ForkingError.Code.invalid` if it is not a socket, is a stream socket that does not listen, or is a
    ///   datagram socket that is not bound. The caller then still owns it.
    public init(adopting descriptor: FileDescriptor, acceptsDescriptors: Bool = false) throws(ForkingError) {
        if let inherited = try InheritedSockets.listener(adopting: descriptor) {
            self = inherited
            return
        }
        try self.init(
            adopting: descriptor, origin: .descriptor(descriptor.rawValue), acceptsDescriptors: acceptsDescriptors)
    }

    init(
        adopting descriptor: FileDescriptor, origin: Origin, acceptsDescriptors: Bool = false
    ) throws(ForkingError) {
        let number = descriptor.rawValue
        var datagram = false
        switch forkcore_adopt(number, &datagram) {
        case 0: break
        case EBADF: throw .invalid("descriptor \(number) is not open")
        case ENOTSOCK: throw .invalid("descriptor \(number) is not a socket")
        case EINVAL: throw .invalid("descriptor \(number) is a stream socket that is not listening")
        case EPROTOTYPE: throw .invalid("descriptor \(number) is a socket neither for streams nor for datagrams")
        case let code: throw .system(call: "fcntl", Errno(rawValue: code))
        }
        let address = try SocketAddress(boundTo: number)
        guard (address.port ?? 1) != 0, !address.isUnix || address.path != nil else {
            throw .invalid("descriptor \(number) is a socket that is not bound to an address")
        }
        // Clients that have already connected may have attached descriptors.
        let mayHoldRights = forkcore_takes_rights(number)
        if !acceptsDescriptors { _ = forkcore_refuse_rights(number) }
        let socket = ParentDescriptor(number, mayHoldRights: mayHoldRights)
        try self.init(socket, nil, isDatagram: datagram, origin: origin, mayHoldRights: mayHoldRights)
    }

    /// Takes over a socket of the predecessor, which continues to serve on it if this program fails.
    init(succeedingOn descriptor: Int32, origin: Origin) throws(ForkingError) {
        let adopted = try Listener(adopting: FileDescriptor(rawValue: descriptor), origin: origin)
        let path = origin == .made ? adopted.address.file : nil
        let socket = adopted.socket
        let file: SocketFile? = if let path { try SocketFile(path, of: socket) } else { nil }
        try self.init(
            socket, file, isDatagram: adopted.isDatagram, origin: origin, mayHoldRights: adopted.mayHoldRights)
        isAnothers = true
        leaveFile()
    }

    /// The predecessor no longer serves.
    mutating func takeOver() {
        guard isAnothers else { return }
        isAnothers = false
        file?.isLeft = false
    }

    private init(
        _ socket: ParentDescriptor, _ file: SocketFile?, isDatagram: Bool, origin: Origin = .made, mayHoldRights: Bool
    ) throws(ForkingError) {
        let address = try SocketAddress(boundTo: socket.rawValue)
        self.address = address
        self.isDatagram = isDatagram
        self.socket = socket
        self.file = file
        self.origin = origin
        self.mayHoldRights = mayHoldRights
    }

    /// Leaves a Unix socket's file to the process that now serves on it.
    func leaveFile() { file?.isLeft = true }

    /// Whether no other process uses the socket after this program has ended.
    var isOurs: Bool { !isAdopted && !isAnothers }

    /// Whether a client is waiting.
    var isAwaited: Bool { isReadable(socket.rawValue) }

    /// Stops accepting in all processes that share this socket, unless another program may still use it. shutdown(2).
    func stopListening() {
        if isOurs { shutdown(socket.rawValue, Int32(SHUT_RDWR)) }
    }

    /// Listens again if another process has shut the socket down. Returns whether that was so. listen(2).
    ///
    /// - Throws: `ForkingError.Code.invalid` for a Unix socket, which cannot listen again; `.system`.
    func listenAgain() throws(ForkingError) -> Bool {
        guard !isAnothers else { return false }
        var again = false
        let code = address.withSockaddr {
            forkcore_listen_again(socket.rawValue, $0, $1, Int32(clamping: backlog), &again)
        }
        guard code != ESHUTDOWN else {
            throw .invalid(
                "another process has shut down the listening socket on \(address), which cannot be repaired: "
                    + "no client can connect any more")
        }
        try check(code, "listen \(address)")
        return again
    }

    private static func open(
        _ address: SocketAddress, _ datagram: Bool, _ options: Options
    ) throws(ForkingError) -> (ParentDescriptor, SocketFile?) {
        guard let path = address.file else {
            return (try openSocket(address, datagram, options), nil)
        }
        let lock = DirectoryLock(around: path)
        defer { withExtendedLifetime(lock) {} }
        try SocketFile.clearStale(path, address, datagram: datagram)
        let socket = try openSocket(address, datagram, options)
        return (
            socket,
            try SocketFile(path, of: socket, permissions: options.permissions, group: options.group)
        )
    }

    private static func openSocket(
        _ address: SocketAddress, _ datagram: Bool, _ options: Options
    ) throws(ForkingError) -> ParentDescriptor {
        var wanted = forkcore_listen_options(
            backlog: Int32(options.backlog), datagram: datagram, reuse_address: options.reusesAddress && !datagram,
            reuse_port: options.reusesPort, v6_only: options.isIPv6Only,
            takes_rights: options.acceptsDescriptors, mode: options.permissions.map { Int32($0.rawValue) } ?? -1)
        forkcore_occupy_standard_descriptors()
        var descriptor: Int32 = -1
        var call: UnsafePointer<CChar>?
        let code = address.withSockaddr { forkcore_listen($0, $1, &wanted, &descriptor, &call) }
        try check(code, "\(call.map { String(cString: $0) } ?? "socket") \(address)")
        let socket = ParentDescriptor(descriptor, mayHoldRights: address.isUnix)
        if !datagram, !address.isUnix { try options.watchPeers(of: descriptor) }
        return socket
    }

    /// Accepts the next connection. Returns nil if none is waiting. Never blocks. For an event loop. accept4(2).
    ///
    /// - Throws: `ForkingError.Code.system`, with EMFILE, ENFILE, ENOMEM or ENOBUFS in a shortage.
    public func accept() throws(ForkingError) -> Connection? {
        guard let (descriptor, peer) = try Self.take(from: socket.rawValue) else { return nil }
        var connection = Connection(descriptor, peer: peer)
        connection.mayHoldRights = mayHoldRights
        return connection
    }

    /// Receives the next datagram, of at most `limit` bytes. Returns nil if none is waiting. Never blocks. For an event
    /// loop. Parent of a server of datagrams. recvmsg(2).
    ///
    /// - Throws: `ForkingError.Code.system`, with ENOMEM or ENOBUFS in a shortage.
    public func receive(limit: Int) throws(ForkingError) -> Datagram? {
        if mayHoldRights, forkcore_drop_rights(socket.rawValue) { return nil }
        var count = 0
        var truncated = false
        var code: Int32 = 0
        var peer = SocketAddress { (_, _) in }
        var destination = forkcore_destination()
        let bytes = [UInt8](unsafeUninitializedCapacity: limit) { buffer, filled in
            peer = SocketAddress {
                code = receive(buffer, $0, $1, &destination, &count, &truncated)
            }
            filled = code == 0 ? count : 0
        }
        switch code {
        case 0:
            return Datagram(bytes, isTruncated: truncated, peer: peer, to: destination, way: .socket(socket.rawValue))
        case EAGAIN, ECONNREFUSED, ECONNRESET, ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH, EPROTO, EACCES, EPERM:
            return nil  // none was waiting, or an earlier reply was not delivered, which Linux reports here
        default:
            throw .system(call: "recvmsg", Errno(rawValue: code))
        }
    }

    private func receive(
        _ buffer: UnsafeMutableBufferPointer<UInt8>, _ peer: UnsafeMutablePointer<sockaddr_storage>,
        _ length: UnsafeMutablePointer<socklen_t>, _ destination: UnsafeMutablePointer<forkcore_destination>,
        _ count: UnsafeMutablePointer<Int>, _ truncated: UnsafeMutablePointer<Bool>
    ) -> Int32 {
        forkcore_receive_datagram(
            socket.rawValue, buffer.baseAddress, buffer.count, peer, length, address.isUnix ? nil : destination, count,
            truncated)
    }

    /// A duplicate of the socket, for code that sends on it after the listener has closed it.
    func copyOfSocket() throws(ForkingError) -> ParentDescriptor {
        let copy = fcntl(socket.rawValue, F_DUPFD_CLOEXEC, 3)
        try check(failure(of: copy), "fcntl")
        return ParentDescriptor(copy, mayHoldRights: mayHoldRights)
    }
}
