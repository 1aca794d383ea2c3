// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

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
        /// Permissions of a Unix socket's file; nil leaves them to the umask. chmod(2).
        public var permissions: FilePermissions?
        /// How clients that have vanished are found; nil: not at all. What a listener is set to, its connections are.
        public var keepAlive: KeepAlive? = KeepAlive()
        /// How long a client may leave unacknowledged what was sent to it, or have no room for it as it does not read; then the
        /// connection ends. Nil: as long as the kernel tries to reach its host, some 15 minutes, and as long as it likes if
        /// that answers. TCP_USER_TIMEOUT.
        public var userTimeout: Duration?

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
    /// Made by somebody else, who may go on with it.
    var isAdopted: Bool { origin != .made }
    /// While the program still serves on it whose place this one takes, it is that one's to end.
    private var isAnothers = false

    /// The descriptor, for a loop of your own to poll. It stays the listener's.
    public var descriptor: FileDescriptor { FileDescriptor(rawValue: socket.rawValue) }

    /// Binds `address`, and listens unless it is for datagrams. socket(2), bind(2), listen(2).
    ///
    /// A Unix socket's file that is in the way is replaced if nobody serves on it any more; a live one stays untouched.
    /// A failure leaves no descriptor open.
    ///
    /// - Throws: `ForkingError.system`, which names the call and the address; `.invalid` for a backlog below 1, or for a
    ///   path that is in use or is no socket.
    public init(_ address: SocketAddress, datagram: Bool = false, options: Options = Options()) throws(ForkingError) {
        guard options.backlog >= 1, options.backlog <= Int32.max else {
            throw .invalid("a backlog of \(options.backlog) cannot be: at least 1 is needed")
        }
        let (socket, file) = try Self.open(address, datagram, options)
        try self.init(socket, file, isDatagram: datagram)
    }

    /// Takes over a socket that somebody else bound: a service manager, a parent, the program's own code. From then on
    /// it is this listener's, which closes it, but never removes its file.
    ///
    /// - Throws: `ForkingError.invalid` if it is no socket, a stream socket that does not listen, or a datagram socket
    ///   that is not bound; it then stays its owner's.
    public init(adopting descriptor: FileDescriptor) throws(ForkingError) {
        try self.init(adopting: descriptor, origin: .manager(name: "unknown"))
    }

    init(adopting descriptor: FileDescriptor, origin: Origin) throws(ForkingError) {
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
        try self.init(ParentDescriptor(number), nil, isDatagram: datagram, origin: origin)
    }

    /// A socket of the program whose place this one takes. That one goes on with it if this one fails.
    init(succeedingOn descriptor: Int32, origin: Origin) throws(ForkingError) {
        let adopted = try Listener(adopting: FileDescriptor(rawValue: descriptor))
        let path = origin == .made ? adopted.address.path.flatMap { $0.hasPrefix("@") ? nil : $0 } : nil
        let socket = adopted.socket
        try self.init(
            socket, path.map { SocketFile($0, of: socket) }, isDatagram: adopted.isDatagram, origin: origin)
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
        _ socket: ParentDescriptor, _ file: SocketFile?, isDatagram: Bool, origin: Origin = .made
    ) throws(ForkingError) {
        let address = try SocketAddress(boundTo: socket.rawValue)
        self.address = address
        self.isDatagram = isDatagram
        self.socket = socket
        self.file = file
        self.origin = origin
    }

    /// Leaves a Unix socket's file to whoever serves on it now.
    func leaveFile() { file?.isLeft = true }

    /// Takes no more connections in any process that has this socket, unless it is somebody else's too. shutdown(2).
    func stopListening() {
        if !isAdopted, !isAnothers { shutdown(socket.rawValue, Int32(SHUT_RDWR)) }
    }

    /// Listens, if somebody who has the socket has shut it down. Returns whether that was so. listen(2).
    ///
    /// - Throws: `ForkingError.invalid` for a Unix socket, which stays as it is then; `.system`.
    func listenAgain() throws(ForkingError) -> Bool {
        guard !isAnothers else { return false }
        var again = false
        let code = address.withSockaddr {
            forkcore_listen_again(socket.rawValue, $0, $1, Int32(clamping: Options().backlog), &again)
        }
        guard code != ESHUTDOWN else {
            throw .invalid("somebody has shut down the listener on \(address), for good: nobody can connect any more")
        }
        try check(code, "listen \(address)")
        return again
    }

    private static func open(
        _ address: SocketAddress, _ datagram: Bool, _ options: Options
    ) throws(ForkingError) -> (ParentDescriptor, SocketFile?) {
        guard let path = address.path, !path.hasPrefix("@") else {
            return (try openSocket(address, datagram, options), nil)
        }
        let lock = DirectoryLock(around: path)
        defer { withExtendedLifetime(lock) {} }
        try SocketFile.clearStale(path, address, datagram: datagram)
        let socket = try openSocket(address, datagram, options)
        return (socket, try SocketFile(path, of: socket, permissions: options.permissions))
    }

    private static func openSocket(
        _ address: SocketAddress, _ datagram: Bool, _ options: Options
    ) throws(ForkingError) -> ParentDescriptor {
        var wanted = forkcore_listen_options(
            backlog: Int32(options.backlog), datagram: datagram, reuse_address: options.reusesAddress && !datagram,
            reuse_port: options.reusesPort, v6_only: options.isIPv6Only,
            mode: options.permissions.map { Int32($0.rawValue) } ?? -1)
        forkcore_occupy_standard_descriptors()
        var descriptor: Int32 = -1
        var call: UnsafePointer<CChar>?
        let code = address.withSockaddr { forkcore_listen($0, $1, &wanted, &descriptor, &call) }
        try check(code, "\(call.map { String(cString: $0) } ?? "socket") \(address)")
        let socket = ParentDescriptor(descriptor)
        if !datagram, !address.isUnix { try options.watchPeers(of: descriptor) }
        return socket
    }

    /// Takes the next connection, or nil if none is waiting. For a loop of your own. accept4(2).
    ///
    /// - Throws: `ForkingError.system`, with EMFILE, ENFILE, ENOMEM or ENOBUFS when there is a shortage.
    public func accept() throws(ForkingError) -> Connection? {
        guard let (descriptor, peer) = try Self.take(from: socket.rawValue) else { return nil }
        return Connection(descriptor, peer: peer)
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

    /// Takes the next datagram of at most `limit` bytes, or nil if none is waiting. For a loop of your own. recvfrom(2).
    ///
    /// - Throws: `ForkingError.system`, with ENOMEM or ENOBUFS when there is a shortage.
    public func receive(limit: Int) throws(ForkingError) -> Datagram? {
        try Self.receive(from: socket.rawValue, limit: limit)
    }

    /// The same, where the listener is not at hand.
    static func receive(from socket: Int32, limit: Int) throws(ForkingError) -> Datagram? {
        var count = 0
        var truncated = false
        var code: Int32 = 0
        var peer = SocketAddress { (_, _) in }
        let bytes = [UInt8](unsafeUninitializedCapacity: limit) { buffer, filled in
            peer = SocketAddress {
                code = forkcore_receive_datagram(
                    socket, buffer.baseAddress, limit, $0, $1, &count, &truncated)
            }
            filled = code == 0 ? count : 0
        }
        switch code {
        case 0:
            return Datagram(bytes: bytes, isTruncated: truncated, peer: peer, socket: FileDescriptor(rawValue: socket))
        case EAGAIN, ECONNREFUSED, ECONNRESET, ENETDOWN, ENETUNREACH, EHOSTDOWN, EHOSTUNREACH, EPROTO, EACCES, EPERM:
            return nil  // there was none, or an answer sent earlier reached nobody; Linux reports that here
        default:
            throw .system(call: "recvfrom", Errno(rawValue: code))
        }
    }
}

/// The file of a Unix socket that this process made.
private final class SocketFile {
    private let path: String
    private let device: dev_t
    private let inode: ino_t
    private let owner = forkcore_process()
    var isLeft = false
    /// Kept open until the file is gone: were it closed first, a successor could take the file for stale, and we the
    /// successor's for ours.
    private let socket: ParentDescriptor

    convenience init(
        _ path: String, of socket: ParentDescriptor, permissions: FilePermissions?
    ) throws(ForkingError) {
        if let permissions, chmod(path, permissions.rawValue) != 0 {
            let code = errno
            unlink(path)
            throw .system(call: "chmod \(path)", Errno(rawValue: code))
        }
        self.init(path, of: socket)
    }

    init(_ path: String, of socket: ParentDescriptor) {
        self.socket = socket
        var made = stat()
        lstat(path, &made)
        self.path = path
        self.device = made.st_dev
        self.inode = made.st_ino
    }

    /// Removed only if it is still the one we made, and not what a successor put there; and never by a child, whose
    /// parent still serves on it.
    deinit {
        guard owner == forkcore_process(), !isLeft else { return }
        var now = stat()
        if lstat(path, &now) == 0, now.st_dev == device, now.st_ino == inode { unlink(path) }
    }

    /// Removes a socket's file on which nobody serves any more.
    static func clearStale(_ path: String, _ address: SocketAddress, datagram: Bool) throws(ForkingError) {
        var found = stat()
        guard lstat(path, &found) == 0 else { return }
        guard found.st_mode & S_IFMT == S_IFSOCK else {
            throw .invalid("\(path) exists and is not a socket; it was left as it is")
        }
        switch address.withSockaddr({ forkcore_probe_unix($0, $1, datagram) }) {
        case ECONNREFUSED:
            unlink(path)
        case 0, EAGAIN, EPROTOTYPE:
            throw .invalid("another server is listening on \(path); it was left as it is")
        case let code:
            throw .system(call: "connect \(address)", Errno(rawValue: code))
        }
    }
}

/// Keeps other servers of this kind from looking at, replacing or making a Unix socket in a directory while we do: two
/// that start at once would otherwise each take the other's new socket for a stale one. flock(2), so it leaves no file.
private final class DirectoryLock {
    private let directory: Int32

    /// Where the directory cannot be read, nothing is locked, and bind says what else is wrong with it.
    init(around path: String) {
        let parent = path.lastIndex(of: "/").map { $0 == path.startIndex ? "/" : String(path[..<$0]) } ?? "."
        directory = Glibc.open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { return }
        for _ in 0..<200 {
            if flock(directory, LOCK_EX | LOCK_NB) == 0 || (errno != EWOULDBLOCK && errno != EINTR) { return }
            usleep(10_000)  // who holds it makes a socket, which takes microseconds; anyone else is not waited for
        }
    }

    deinit {
        if directory >= 0 { forkcore_close(directory) }
    }
}
