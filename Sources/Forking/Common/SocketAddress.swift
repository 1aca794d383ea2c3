// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// The address of a socket or of its peer: IPv4, IPv6 or Unix. See ip(7), ipv6(7), unix(7). Any process.
///
/// As text: `127.0.0.1:7777`, `[::1]:7777`, `[fe80::1%eth0]:7777`, `unix:/run/x.sock`, and `unix:@name` for a name in
/// Linux's abstract namespace. Host names other than localhost are not resolved, because resolvers start threads, which
/// a forking parent must not have.
public struct SocketAddress: Sendable, BitwiseCopyable {
    /// Only the first `length` bytes are valid.
    private(set) var storage = sockaddr_storage()
    private(set) var length: socklen_t = 0

    /// Makes an address by a C call that fills in the storage and its length.
    init<Failure: Error>(
        filledBy fill: (UnsafeMutablePointer<sockaddr_storage>, UnsafeMutablePointer<socklen_t>) throws(Failure) -> Void
    ) throws(Failure) {
        try fill(&storage, &length)
    }

    /// The address that a socket is bound to. getsockname(2).
    init(boundTo descriptor: Int32) throws(ForkingError) {
        try self.init { (storage, length) throws(ForkingError) in
            try check(forkcore_local_address(descriptor, storage, length), "getsockname")
        }
    }

    /// The address at the other end of a connected socket. getpeername(2).
    init(peerOf descriptor: Int32) throws(ForkingError) {
        try self.init { (storage, length) throws(ForkingError) in
            length.pointee = socklen_t(Self.longest)
            let result = UnsafeMutableRawPointer(storage).withMemoryRebound(to: sockaddr.self, capacity: 1) {
                failure(of: getpeername(descriptor, $0, length))
            }
            try check(result, "getpeername")
        }
    }

    /// Makes an address from bytes that another process sent; nil if they are not a valid address.
    init?(bytes: some Collection<UInt8>) {
        guard bytes.count <= Self.longest else { return nil }
        withUnsafeMutableBytes(of: &storage) { $0.copyBytes(from: bytes) }
        length = socklen_t(bytes.count)
        guard checked != nil else { return nil }
    }

    /// The bytes of the sockaddr.
    var bytes: [UInt8] { withUnsafeBytes(of: storage) { Array($0.prefix(Int(length))) } }

    /// The maximum size of an address in bytes.
    static let longest = MemoryLayout<sockaddr_storage>.size

    /// This address if it is valid, else nil. For an address that another process wrote.
    var checked: SocketAddress? {
        let shortest =
            switch Int32(storage.ss_family) {
            case AF_INET: MemoryLayout<sockaddr_in>.size
            case AF_INET6: MemoryLayout<sockaddr_in6>.size
            case AF_UNIX: MemoryLayout<sa_family_t>.size
            default: Int.max
            }
        let longest = Int32(storage.ss_family) == AF_UNIX ? MemoryLayout<sockaddr_un>.size : shortest
        return (shortest...max(shortest, longest)).contains(Int(length)) ? self : nil
    }

    /// Makes an IP address. `address` must be numeric, such as `127.0.0.1`, `::1` or `fe80::1%eth0`. inet_pton(3).
    ///
    /// - Throws: `ForkingError.Code.invalid` if it is not numeric, or if the network interface does not exist.
    public init(ip address: String, port: UInt16) throws(ForkingError) {
        guard !address.utf8.contains(0) else {  // C would read only what precedes it
            throw .invalid("a numeric IP address cannot have a NUL byte in it")
        }
        var v4 = sockaddr_in()
        if inet_pton(AF_INET, address, &v4.sin_addr) == 1 {
            v4.sin_family = sa_family_t(AF_INET)
            v4.sin_port = port.bigEndian
            store(v4)
            return
        }
        var v6 = sockaddr_in6()
        let parts = address.split(separator: "%", maxSplits: 1, omittingEmptySubsequences: false)
        guard inet_pton(AF_INET6, String(parts[0]), &v6.sin6_addr) == 1 else {
            throw .invalid("'\(address)' is not a numeric IP address such as 127.0.0.1 or ::1")
        }
        if parts.count == 2 {
            // The zone may be a number: that is how an interface that has been removed is printed.
            let index = if_nametoindex(String(parts[1]))
            v6.sin6_scope_id = index != 0 ? index : UInt32(parts[1]) ?? 0
            guard v6.sin6_scope_id != 0 else { throw .invalid("there is no network interface '\(parts[1])'") }
        }
        v6.sin6_family = sa_family_t(AF_INET6)
        v6.sin6_port = port.bigEndian
        store(v6)
    }

    /// Makes a Unix address: a path in the file system, or `@` and a name in Linux's abstract namespace. unix(7).
    ///
    /// - Throws: `ForkingError.Code.invalid` if the path is empty, contains a NUL byte, or is longer than the 107 bytes
    ///   that the kernel allows.
    public init(unix path: String) throws(ForkingError) { try self.init(unix: Array(path.utf8)) }

    /// The same from bytes, because a path need not be UTF-8.
    public init(unix path: [UInt8]) throws(ForkingError) {
        var unix = sockaddr_un()
        unix.sun_family = sa_family_t(AF_UNIX)
        let isAbstract = path.first == Self.at
        let name = isAbstract ? path.dropFirst() : path[...]
        let room = MemoryLayout.size(ofValue: unix.sun_path) - 1
        guard !name.isEmpty else { throw .invalid("a Unix socket needs a path, such as unix:/run/x.sock") }
        guard !name.contains(0) else { throw .invalid("the path of a Unix socket cannot have a NUL byte in it") }
        guard name.count <= room else {
            let shown = Self.printable(bytes: path)
            throw .invalid("'\(shown)' has \(name.count) bytes, and the path of a Unix socket can have \(room)")
        }
        withUnsafeMutableBytes(of: &unix.sun_path) { $0[(isAbstract ? 1 : 0)...].copyBytes(from: name) }
        store(unix)
        // A path ends with a NUL byte; an abstract name starts with one.
        length = socklen_t(Self.pathOffset + name.count + 1)
    }

    private static let at = UInt8(ascii: "@")
    private static var pathOffset: Int { MemoryLayout.offset(of: \sockaddr_un.sun_path)! }

    private mutating func store<Address>(_ address: Address) {
        withUnsafeMutableBytes(of: &storage) { to in
            withUnsafeBytes(of: address) { to.copyMemory(from: $0) }
        }
        length = socklen_t(MemoryLayout<Address>.size)
    }

    private func load<Address>(_ type: Address.Type) -> Address {
        withUnsafeBytes(of: storage) { $0.load(as: type) }
    }

    func withSockaddr<R>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> R) -> R {
        withUnsafeBytes(of: storage) { body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), length) }
    }
}

// MARK: - Components

extension SocketAddress {
    private var family: Int32 { length == 0 ? AF_UNSPEC : Int32(storage.ss_family) }

    /// Whether this is the address of a Unix socket, which may be unnamed.
    public var isUnix: Bool { family == AF_UNIX }

    /// The numeric IP address; nil for a Unix socket. An IPv4-mapped IPv6 address (`::ffff:…`) is returned as IPv4.
    public var ip: String? {
        var text = [CChar](repeating: 0, count: Int(INET6_ADDRSTRLEN))
        switch family {
        case AF_INET:
            var address = load(sockaddr_in.self).sin_addr
            inet_ntop(AF_INET, &address, &text, socklen_t(text.count))
        case AF_INET6:
            let v6 = load(sockaddr_in6.self)
            var address = v6.sin6_addr
            inet_ntop(AF_INET6, &address, &text, socklen_t(text.count))
            let mapped = "::ffff:"
            let plain = Self.string(text)
            if plain.hasPrefix(mapped), plain.contains(".") { return String(plain.dropFirst(mapped.count)) }
            return v6.sin6_scope_id == 0 ? plain : plain + "%" + Self.interface(v6.sin6_scope_id)
        default:
            return nil
        }
        return Self.string(text)
    }

    /// Calls `body` with the bytes of the IP address, 4 or 16 in network order; returns nil for a Unix socket. Does not
    /// allocate, unlike `ip`.
    func withIPBytes<R>(_ body: (UnsafeRawBufferPointer) -> R) -> R? {
        switch family {
        case AF_INET: withUnsafeBytes(of: load(sockaddr_in.self).sin_addr, body)
        case AF_INET6: withUnsafeBytes(of: load(sockaddr_in6.self).sin6_addr, body)
        default: nil
        }
    }

    /// The port; nil for a Unix socket.
    public var port: UInt16? {
        switch family {
        case AF_INET: UInt16(bigEndian: load(sockaddr_in.self).sin_port)
        case AF_INET6: UInt16(bigEndian: load(sockaddr_in6.self).sin6_port)
        default: nil
        }
    }

    /// Whether this is a name in Linux's abstract namespace, which has no file.
    public var isAbstract: Bool { rawName?.first == 0 }

    /// The path of a Unix socket, or `@` and its abstract name, as text; invalid UTF-8 is replaced, so use `pathBytes`
    /// to open it. Nil for IP, and for an unnamed socket, as most clients have.
    public var path: String? { pathBytes.map { String(decoding: $0, as: UTF8.self) } }

    /// The path of a Unix socket, or `@` and its abstract name, byte for byte. Nil for IP, and for an unnamed socket.
    ///
    /// A path that starts with `@` is returned with `./` in front, to distinguish it from an abstract name.
    public var pathBytes: [UInt8]? {
        guard let name = rawName else { return nil }
        if name.first == 0 { return [Self.at] + name.dropFirst() }
        let path = Array(name.prefix { $0 != 0 })
        return path.first == Self.at ? Array("./".utf8) + path : path
    }

    /// The path of a Unix socket that has a file; nil otherwise.
    var file: SocketPath? {
        guard let path = pathBytes, !isAbstract else { return nil }
        return SocketPath(path)
    }

    private var rawName: [UInt8]? {
        guard isUnix, Int(length) > Self.pathOffset else { return nil }
        return withUnsafeBytes(of: storage) { Array($0[Self.pathOffset..<min(Int(length), $0.count)]) }
    }

    static func string(_ text: [CChar]) -> String {
        String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    private static func interface(_ index: UInt32) -> String {
        var name = [CChar](repeating: 0, count: Int(IF_NAMESIZE))
        return if_indextoname(index, &name) == nil ? String(index) : string(name)
    }
}

extension SocketAddress {
    /// Whether a socket bound to this address satisfies a request for `asked`. Port 0 in `asked` matches any port.
    /// Zones are compared for link-local addresses only, because the kernel stores none for others.
    func isBound(asAsked asked: SocketAddress) -> Bool {
        guard family == asked.family, asked.port == 0 || port == asked.port else { return false }
        switch family {
        case AF_INET: return load(sockaddr_in.self).sin_addr.s_addr == asked.load(sockaddr_in.self).sin_addr.s_addr
        case AF_INET6:
            let (a, b) = (load(sockaddr_in6.self), asked.load(sockaddr_in6.self))
            var (ours, its) = (a.sin6_addr, b.sin6_addr)
            guard memcmp(&ours, &its, MemoryLayout<in6_addr>.size) == 0 else { return false }
            let isLinkLocal = withUnsafeBytes(of: ours) { $0[0] == 0xfe && $0[1] & 0xc0 == 0x80 }
            return !isLinkLocal || a.sin6_scope_id == b.sin6_scope_id
        default: return self == asked
        }
    }
}

extension SocketAddress: Hashable {
    /// Whether the addresses are equal byte for byte, as the kernel sees them.
    public static func == (a: SocketAddress, b: SocketAddress) -> Bool {
        a.length == b.length
            && withUnsafeBytes(of: a.storage) { x in
                withUnsafeBytes(of: b.storage) { y in x.prefix(Int(a.length)).elementsEqual(y.prefix(Int(b.length))) }
            }
    }

    /// Hashes the valid bytes.
    public func hash(into hasher: inout Hasher) {
        withUnsafeBytes(of: storage) { hasher.combine(bytes: UnsafeRawBufferPointer(rebasing: $0.prefix(Int(length)))) }
    }
}
