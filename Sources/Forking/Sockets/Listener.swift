// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
public import SystemPackage

/// A socket that clients come to: TCP or Unix stream, listening, or UDP or Unix datagram, bound.
///
/// It is closed when it goes away, in children too, and a Unix socket's file that it made is then removed, but not by a
/// child.
public struct Listener: ~Copyable {
    /// How a socket is made. See socket(7), ip(7), unix(7).
    public struct Options: Sendable {
        /// How many connections the kernel keeps waiting until they are accepted; it caps this at
        /// net.core.somaxconn. listen(2).
        public var backlog: Int = 1024
        /// Bind a port again while connections of its former owner linger. SO_REUSEADDR.
        public var reusesAddress = true
        /// Share a port with other sockets that also say so. SO_REUSEPORT.
        public var reusesPort = false
        /// Keep IPv4 clients off an IPv6 socket bound to `[::]`. IPV6_V6ONLY.
        public var isIPv6Only = false
        /// Let clients of a Unix socket attach descriptors to what they send (SCM_RIGHTS), for a handler or program
        /// that takes them by recvmsg(2). If not, who tries gets EPERM, from Linux 6.16 on: SO_PASSRIGHTS.
        public var acceptsDescriptors = false
        /// Permissions of a Unix socket's file; nil leaves them to the umask. chmod(2).
        public var permissions: FilePermissions?
        /// How clients that have vanished are found; nil: not at all. What a listener is set to, its connections are.
        public var keepAlive: KeepAlive? = KeepAlive()
        /// How long a client may leave unacknowledged what was sent to it, or have no room for it as it does not read;
        /// then the connection ends. Nil: as long as the kernel tries to reach its host, some 15 minutes, and as long
        /// as it likes if that answers. TCP_USER_TIMEOUT.
        public var userTimeout: Duration?
        /// The group of a Unix socket's file; nil leaves it. One that this user is not in takes root. chown(2).
        public var group: UInt32?

        /// The defaults, as said at each property.
        public init() {}
    }

    /// Where it is bound; with port 0 asked for, the port that the kernel chose.
    public let address: SocketAddress
    /// Whether datagrams come, rather than connections.
    public let isDatagram: Bool

    private let socket: ParentDescriptor
    private let file: SocketFile?
    /// Where a listener's socket comes from.
    enum Origin: Equatable {
        /// This program made it, or the one whose place it takes.
        case made
        /// A service manager, who gave it this name.
        case manager(name: String)
        /// Whoever started the first of the programs that took each other's place left it open, under this number.
        case descriptor(Int32)
    }

    let origin: Origin
    private var backlog = Options().backlog
    /// Made by somebody else, who may go on with it.
    var isAdopted: Bool { origin != .made }
    /// Whether what comes may have descriptors attached that nobody here takes.
    let mayHoldRights: Bool
    /// While the program still serves on it whose place this one takes, it is that one's to end.
    private var isAnothers = false

    /// The descriptor, for a loop of your own to poll. It stays the listener's.
    public var descriptor: FileDescriptor { FileDescriptor(rawValue: socket.rawValue) }

    /// Listens on `address`, or with `datagram` only binds it: on the socket that was handed over to this process, if
    /// one is bound there (see `InheritedSockets`), or else on a new one. socket(2), bind(2), listen(2).
    ///
    /// So a server can be upgraded while it serves, and started by a service manager, without saying so. Port 0 is a
    /// new port, or in a program that takes the place of another, the port that the kernel chose for that one.
    ///
    /// A Unix socket's file that is in the way is replaced if nobody serves on it any more; a live one stays untouched.
    /// A failure leaves no descriptor open.
    ///
    /// - Throws: `ForkingError.Code.system`, which names the call and the address; `.invalid` for a backlog below 1,
    ///   for a path that is in use or is no socket, or if the variables that hand sockets over make no sense.
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

    /// Takes over a socket that somebody else bound: a service manager, a parent, the program's own code. From then on
    /// it is this listener's, which closes it, but never removes its file.
    ///
    /// In a program that takes the place of another, it is the socket which that one served on as `descriptor`,
    /// whatever its number here.
    ///
    /// - Parameters:
    ///   - descriptor: the socket.
    ///   - acceptsDescriptors: see `Options.acceptsDescriptors`.
    /// - Throws: `ForkingError.Code.invalid` if it is no socket, a stream socket that does not listen, or a datagram
    ///   socket that is not bound; it then stays its owner's.
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
        // Who has connected already could attach what he liked.
        let mayHoldRights = forkcore_takes_rights(number)
        if !acceptsDescriptors { _ = forkcore_refuse_rights(number) }
        let socket = ParentDescriptor(number, mayHoldRights: mayHoldRights)
        try self.init(socket, nil, isDatagram: datagram, origin: origin, mayHoldRights: mayHoldRights)
    }

    /// A socket of the program whose place this one takes. That one goes on with it if this one fails.
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

    /// The other does not serve any more.
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

    /// Leaves a Unix socket's file to whoever serves on it now.
    func leaveFile() { file?.isLeft = true }

    /// Whether nobody goes on with it when this program ends.
    var isOurs: Bool { !isAdopted && !isAnothers }

    /// Whether somebody waits there.
    var isAwaited: Bool { isReadable(socket.rawValue) }

    /// Takes no more connections in any process that has this socket, unless it is somebody else's too. shutdown(2).
    func stopListening() {
        if isOurs { shutdown(socket.rawValue, Int32(SHUT_RDWR)) }
    }

    /// Listens, if somebody who has the socket has shut it down. Returns whether that was so. listen(2).
    ///
    /// - Throws: `ForkingError.Code.invalid` for a Unix socket, which stays as it is then; `.system`.
    func listenAgain() throws(ForkingError) -> Bool {
        guard !isAnothers else { return false }
        var again = false
        let code = address.withSockaddr {
            forkcore_listen_again(socket.rawValue, $0, $1, Int32(clamping: backlog), &again)
        }
        guard code != ESHUTDOWN else {
            throw .invalid(
                "another process has shut down the listening socket on \(address), which cannot be mended: nobody can "
                    + "connect any more")
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

    /// Takes the next connection, or nil if none is waiting. For a loop of your own. accept4(2).
    ///
    /// - Throws: `ForkingError.Code.system`, with EMFILE, ENFILE, ENOMEM or ENOBUFS when there is a shortage.
    public func accept() throws(ForkingError) -> Connection? {
        guard let (descriptor, peer) = try Self.take(from: socket.rawValue) else { return nil }
        var connection = Connection(descriptor, peer: peer)
        connection.mayHoldRights = mayHoldRights
        return connection
    }

    /// The same, in a process that has the socket, but not the listener. The descriptor is the caller's to close.
    static func take(from socket: Int32) throws(ForkingError) -> (FileDescriptor, peer: SocketAddress)? {
        var descriptor: Int32 = -1
        var code: Int32 = 0
        let peer = SocketAddress { code = forkcore_accept(socket, $0, $1, &descriptor) }
        switch code {
        case 0:
            return (FileDescriptor(rawValue: descriptor), peer)
        case EAGAIN, ECONNABORTED, EPROTO, ENETDOWN, ENOPROTOOPT, EHOSTDOWN, ENONET, EHOSTUNREACH, EOPNOTSUPP,
            ENETUNREACH, EPERM, ETIMEDOUT:
            return nil  // there was none, or its client has gone again; Linux reports that here
        default:
            throw .system(call: "accept", Errno(rawValue: code))
        }
    }

    /// Takes the next datagram of at most `limit` bytes, or nil if none is waiting. For a loop of your own. recvmsg(2).
    ///
    /// - Throws: `ForkingError.Code.system`, with ENOMEM or ENOBUFS when there is a shortage.
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
            return nil  // there was none, or an answer sent earlier reached nobody; Linux reports that here
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

    /// The socket under another number, for who goes on to send on it.
    func copyOfSocket() throws(ForkingError) -> ParentDescriptor {
        let copy = fcntl(socket.rawValue, F_DUPFD_CLOEXEC, 3)
        try check(failure(of: copy), "fcntl")
        return ParentDescriptor(copy, mayHoldRights: mayHoldRights)
    }
}
