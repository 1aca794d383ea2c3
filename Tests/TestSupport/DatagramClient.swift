// SPDX-License-Identifier: Apache-2.0

import Glibc

/// A client of a datagram server, with a deadline on each read.
public final class DatagramClient {
    public let descriptor: Int32
    private let bound: String?

    /// Connects to an address as `Client` does.
    ///
    /// - Parameter path: for a Unix server that is to answer, where this client is bound.
    public init(_ address: String, boundTo path: String? = nil, deadline seconds: Int = 60) throws {
        bound = path
        descriptor = try withAddress(address) { family, pointer, length in
            let descriptor = socket(family, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            guard descriptor >= 0 else { throw Failure("socket: \(String(cString: strerror(errno)))") }
            let own = try path.map { try withAddress("unix:\($0)") { bind(descriptor, $1, $2) } } ?? 0
            guard own == 0, connect(descriptor, pointer, length) == 0 else {
                let reason = String(cString: strerror(errno))
                close(descriptor)
                throw Failure("bind or connect \(address): \(reason)")
            }
            return descriptor
        }
        var timeout = timeval(tv_sec: seconds, tv_usec: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit {
        close(descriptor)
        if let bound { unlink(bound) }
    }

    public func send(_ text: String) throws {
        let bytes = Array(text.utf8)
        guard Glibc.send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count else {
            throw Failure("send: \(String(cString: strerror(errno)))")
        }
    }

    /// The next datagram.
    public func receive() throws -> String {
        var bytes = [UInt8](repeating: 0, count: 65_536)
        let count = recv(descriptor, &bytes, bytes.count, 0)
        guard count >= 0 else { throw Failure("recv: \(String(cString: strerror(errno)))") }
        return String(decoding: bytes.prefix(count), as: UTF8.self)
    }

    /// Whether an answer is there.
    public var hasAnswer: Bool {
        var byte: UInt8 = 0
        return recv(descriptor, &byte, 1, Int32(MSG_PEEK | MSG_DONTWAIT)) >= 0
    }
}

extension Client {
    /// The port that the server sees.
    public var port: UInt16 {
        var address = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return withUnsafeMutableBytes(of: &address) { bytes in
            _ = getsockname(descriptor, bytes.baseAddress!.assumingMemoryBound(to: sockaddr.self), &length)
            // At the same place for IPv4 and IPv6.
            return UInt16(bigEndian: bytes.loadUnaligned(fromByteOffset: 2, as: UInt16.self))
        }
    }

    /// Sends a line and returns the line that comes back, without its newline.
    public func ask(_ line: String) throws -> String {
        try send(line + "\n")
        var answer = ""
        while !answer.hasSuffix("\n") {
            let piece = try receive()
            guard !piece.isEmpty else { throw Failure("the server closed after '\(answer)', asked for '\(line)'") }
            answer += piece
        }
        return String(answer.dropLast())
    }

    /// Whether something, be it the end, is there to be read.
    public var hasAnswer: Bool {
        var polled = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        return poll(&polled, 1, 0) == 1
    }

    /// From now on closing tells the server of it by a reset.
    public func resetWhenClosed() {
        var none = linger(l_onoff: 1, l_linger: 0)
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &none, socklen_t(MemoryLayout<linger>.size))
    }
}

/// How many seconds of CPU a process has used.
public func processorTime(of pid: Int32) -> Double {
    guard let text = contents(of: "/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else { return 0 }
    let fields = text[text.index(end, offsetBy: 2)...].split(separator: " ")
    return Double(Int(fields[11])! + Int(fields[12])!) / Double(sysconf(Int32(_SC_CLK_TCK)))
}
