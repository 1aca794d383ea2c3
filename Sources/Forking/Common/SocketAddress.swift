// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc

/// Where a socket is bound, or who is at its other end: IPv4, IPv6 or Unix. See ip(7), ipv6(7), unix(7).
///
/// In text: `127.0.0.1:7777`, `[::1]:7777`, `[fe80::1%eth0]:7777`, `unix:/run/x.sock`, and `unix:@name` for Linux's
/// abstract names. Names of hosts are not looked up, but for localhost: a resolver's threads have no place in a forking
/// parent.
public struct SocketAddress: Sendable, BitwiseCopyable {
    /// Only the first `length` bytes mean something.
    private(set) var storage = sockaddr_storage()
    private(set) var length: socklen_t = 0

    /// Fills in an address by way of a C call, which is given the storage and its length.
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

    /// One whose bytes another process has sent, if they can be an address.
    init?(bytes: some Collection<UInt8>) {
        guard bytes.count <= Self.longest else { return nil }
        withUnsafeMutableBytes(of: &storage) { $0.copyBytes(from: bytes) }
        length = socklen_t(bytes.count)
        guard checked != nil else { return nil }
    }

    /// What it is made of.
    var bytes: [UInt8] { withUnsafeBytes(of: storage) { Array($0.prefix(Int(length))) } }

    /// The most bytes that one can have.
    static let longest = MemoryLayout<sockaddr_storage>.size

    /// Itself, if it can be an address: for one that another process has written.
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

    /// `address` is numeric, such as `127.0.0.1`, `::1` or `fe80::1%eth0`. inet_pton(3).
    ///
    /// - Throws: `ForkingError.Code.invalid`.
    public init(ip address: String, port: UInt16) throws(ForkingError) {
        guard !address.utf8.contains(0) else {  // C would see but what stands before it
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
            // A number as well, as it is printed for an interface that has gone.
            let index = if_nametoindex(String(parts[1]))
            v6.sin6_scope_id = index != 0 ? index : UInt32(parts[1]) ?? 0
            guard v6.sin6_scope_id != 0 else { throw .invalid("there is no network interface '\(parts[1])'") }
        }
        v6.sin6_family = sa_family_t(AF_INET6)
        v6.sin6_port = port.bigEndian
        store(v6)
    }

    /// A path in the file system, or after an `@` a name in Linux's abstract namespace.
    ///
    /// - Throws: `ForkingError.Code.invalid`: empty, with a NUL byte, or longer than the 107 bytes that the kernel
    ///   takes.
    public init(unix path: String) throws(ForkingError) { try self.init(unix: Array(path.utf8)) }

    /// The same, of bytes: not every path is UTF-8.
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
        // A path ends with a NUL, an abstract name begins with one.
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

// MARK: - What it says

extension SocketAddress {
    private var family: Int32 { length == 0 ? AF_UNSPEC : Int32(storage.ss_family) }

    /// Whether this is a Unix socket's address, be it unnamed.
    public var isUnix: Bool { family == AF_UNIX }

    /// The IP address in figures; an IPv4 address that came by an IPv6 socket is given as IPv4. Nil for Unix.
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

    /// Nil for Unix.
    public var port: UInt16? {
        switch family {
        case AF_INET: UInt16(bigEndian: load(sockaddr_in.self).sin_port)
        case AF_INET6: UInt16(bigEndian: load(sockaddr_in6.self).sin6_port)
        default: nil
        }
    }

    /// Whether this is a Unix socket's name that is no file: in Linux's abstract namespace.
    public var isAbstract: Bool { rawName?.first == 0 }

    /// A Unix socket's path, or `@` and its abstract name, as text: what is no UTF-8 in it is replaced. `pathBytes` has
    /// it as it is. Nil for an unnamed one (most clients') and for IP.
    public var path: String? { pathBytes.map { String(decoding: $0, as: UTF8.self) } }

    /// A Unix socket's path, or `@` and its abstract name, byte for byte. Nil for an unnamed one and for IP.
    ///
    /// A path that begins with an `@` itself has `./` in front, so that it cannot be taken for a name.
    public var pathBytes: [UInt8]? {
        guard let name = rawName else { return nil }
        if name.first == 0 { return [Self.at] + name.dropFirst() }
        let path = Array(name.prefix { $0 != 0 })
        return path.first == Self.at ? Array("./".utf8) + path : path
    }

    /// Of a Unix socket that has a file. Nil for all others.
    var file: SocketPath? {
        guard let path = pathBytes, !isAbstract else { return nil }
        return SocketPath(path)
    }

    private var rawName: [UInt8]? {
        guard isUnix, Int(length) > Self.pathOffset else { return nil }
        return withUnsafeBytes(of: storage) { Array($0[Self.pathOffset..<min(Int(length), $0.count)]) }
    }

    private static func string(_ text: [CChar]) -> String {
        String(decoding: text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    private static func interface(_ index: UInt32) -> String {
        var name = [CChar](repeating: 0, count: Int(IF_NAMESIZE))
        return if_indextoname(index, &name) == nil ? String(index) : string(name)
    }
}

extension SocketAddress {
    /// Whether a socket bound here is what somebody asks for who names `asked`: any port where that is 0, and a zone
    /// only where an address means another thing in each, as the kernel keeps none of others'.
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
    /// Whether they are the same for the kernel, byte for byte.
    public static func == (a: SocketAddress, b: SocketAddress) -> Bool {
        a.length == b.length
            && withUnsafeBytes(of: a.storage) { x in
                withUnsafeBytes(of: b.storage) { y in x.prefix(Int(a.length)).elementsEqual(y.prefix(Int(b.length))) }
            }
    }

    /// Hashes the bytes that mean something.
    public func hash(into hasher: inout Hasher) {
        withUnsafeBytes(of: storage) { hasher.combine(bytes: UnsafeRawBufferPointer(rebasing: $0.prefix(Int(length)))) }
    }
}
