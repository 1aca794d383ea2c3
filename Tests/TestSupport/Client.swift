// SPDX-License-Identifier: Apache-2.0

import Glibc

/// A client of a stream server, with a deadline on each read and write.
public final class Client {
    public let descriptor: Int32

    /// Connects to `127.0.0.1:PORT`, `[::1]:PORT`, `unix:PATH` or `unix:@NAME`, as a server prints it.
    ///
    /// - Parameter source: where it connects from, such as `127.0.0.2`; nil: what the kernel chooses.
    public init(_ address: String, from source: String? = nil, deadline seconds: Int = 60) throws {
        descriptor = try withAddress(address) { family, pointer, length in
            let descriptor = socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            guard descriptor >= 0 else { throw Failure("socket: \(String(cString: strerror(errno)))") }
            if let source {
                let isBound = try withAddress("\(source):0") { bind(descriptor, $1, $2) == 0 }
                guard isBound else {
                    close(descriptor)
                    throw Failure("bind \(source): \(String(cString: strerror(errno)))")
                }
            }
            guard connect(descriptor, pointer, length) == 0 else {
                let reason = String(cString: strerror(errno))
                close(descriptor)
                throw Failure("connect \(address): \(reason)")
            }
            return descriptor
        }
        var timeout = timeval(tv_sec: seconds, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close(descriptor) }

    public func send(_ text: String) throws {
        var bytes = Array(text.utf8)[...]
        while !bytes.isEmpty {
            let count = bytes.withUnsafeBytes { Glibc.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
            guard count > 0 else { throw Failure("send: \(String(cString: strerror(errno)))") }
            bytes = bytes.dropFirst(count)
        }
    }

    /// What comes next; empty at the end. A reset counts as an end.
    public func receive(upTo limit: Int = 65_536) throws -> String {
        var bytes = [UInt8](repeating: 0, count: limit)
        let count = recv(descriptor, &bytes, limit, 0)
        if count < 0, errno == ECONNRESET { return "" }
        guard count >= 0 else { throw Failure("recv: \(String(cString: strerror(errno)))") }
        return String(decoding: bytes.prefix(count), as: UTF8.self)
    }

    /// Everything until the server closes.
    public func receiveAll() throws -> String {
        var all = ""
        while case let piece = try receive(), !piece.isEmpty { all += piece }
        return all
    }

    public func finishSending() { shutdown(descriptor, Int32(SHUT_WR)) }

    /// Sends a line and reads until it has come back.
    public func echo(_ line: String) throws {
        try send(line + "\n")
        var back = ""
        while !back.hasSuffix("\n") {
            let piece = try receive()
            guard !piece.isEmpty else { throw Failure("the server closed after '\(back)' of '\(line)'") }
            back += piece
        }
        guard back == line + "\n" else { throw Failure("sent '\(line)', got '\(back)'") }
    }
}

/// Calls `body` with a socket address made of text such as `127.0.0.1:7777`, `[::1]:7777` or `unix:/run/x.sock`.
public func withAddress<R>(_ text: String, _ body: (Int32, UnsafePointer<sockaddr>, socklen_t) throws -> R) throws -> R
{
    func call<Address>(_ family: Int32, _ address: Address, _ length: Int) throws -> R {
        try withUnsafeBytes(of: address) {
            try body(family, $0.baseAddress!.assumingMemoryBound(to: sockaddr.self), socklen_t(length))
        }
    }
    if text.hasPrefix("unix:") {
        var unix = sockaddr_un()
        unix.sun_family = sa_family_t(AF_UNIX)
        let name = Array(text.dropFirst(5).utf8)
        withUnsafeMutableBytes(of: &unix.sun_path) { $0.copyBytes(from: name) }
        guard name.first == UInt8(ascii: "@") else { return try call(AF_UNIX, unix, MemoryLayout<sockaddr_un>.size) }
        unix.sun_path.0 = 0
        return try call(AF_UNIX, unix, MemoryLayout.offset(of: \sockaddr_un.sun_path)! + name.count)
    }
    let colon = text.lastIndex(of: ":")!
    let port = in_port_t(text[text.index(after: colon)...])!.bigEndian
    if text.hasPrefix("[") {
        var v6 = sockaddr_in6()
        v6.sin6_family = sa_family_t(AF_INET6)
        v6.sin6_port = port
        inet_pton(AF_INET6, String(text[..<colon].dropFirst().dropLast()), &v6.sin6_addr)
        return try call(AF_INET6, v6, MemoryLayout<sockaddr_in6>.size)
    }
    var v4 = sockaddr_in()
    v4.sin_family = sa_family_t(AF_INET)
    v4.sin_port = port
    inet_pton(AF_INET, String(text[..<colon]), &v4.sin_addr)
    return try call(AF_INET, v4, MemoryLayout<sockaddr_in>.size)
}
