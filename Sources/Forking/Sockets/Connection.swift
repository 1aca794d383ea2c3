// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// One client's stream: TCP or Unix. Reads are buffered, writes are not.
///
/// It cannot be copied, and is closed when it goes away, so its descriptor cannot leak. In a child it belongs to the
/// handler; the parent drops its own copy right after fork. Writing to a peer that has gone throws
/// `ForkingError.system` with `Errno.brokenPipe`, and never raises SIGPIPE.
public struct Connection: ~Copyable {
    /// The descriptor, blocking; it stays the connection's. What is read from it directly passes the buffer by.
    public let descriptor: FileDescriptor
    /// Who is at the other end.
    public let peer: SocketAddress

    private var buffer: [UInt8] = []
    private var unread: Range<Int> = 0..<0
    private var hasEnded = false

    /// Takes a connected stream socket over; it is closed with the connection.
    public init(_ descriptor: FileDescriptor, peer: SocketAddress) {
        self.descriptor = descriptor
        self.peer = peer
    }

    deinit { forkcore_close(descriptor.rawValue) }

    /// This end's address. getsockname(2).
    public var local: SocketAddress {
        get throws(ForkingError) { try SocketAddress(boundTo: descriptor.rawValue) }
    }

    // MARK: Reading

    /// Reads up to and with the next newline; at the end of the stream, what is left without one; then nil.
    ///
    /// - Parameter limit: the longest line in bytes, its newline included.
    /// - Throws: `ForkingError.lineTooLong`, `.timedOut`, or `.system` from recv(2).
    public mutating func readLine(limit: Int = 65_536) throws(ForkingError) -> [UInt8]? {
        var searched = 0
        while true {
            let newline = buffer[unread].dropFirst(searched).firstIndex(of: UInt8(ascii: "\n"))
            let length = newline.map { $0 + 1 - unread.lowerBound } ?? unread.count
            guard length <= limit else { throw .lineTooLong(limit: limit) }
            if newline != nil { return take(length) }
            searched = unread.count
            // One byte past the limit is enough to know that the line is too long.
            if try fill(upTo: min(limit, .max - 1) - searched + 1) == 0 {
                return unread.isEmpty ? nil : take(unread.count)
            }
        }
    }

    /// Reads exactly `count` bytes.
    ///
    /// - Throws: `ForkingError.endOfStream` if the peer closes before, `.timedOut`, or `.system` from recv(2).
    public mutating func read(exactly count: Int) throws(ForkingError) -> [UInt8] {
        precondition(count >= 0, "a count of bytes cannot be negative")
        while unread.count < count {
            if try fill(upTo: count - unread.count) == 0 {
                throw .endOfStream(received: unread.count, expected: count)
            }
        }
        return take(count)
    }

    /// Reads what has come, at least one byte and at most `limit`; empty at the end of the stream.
    ///
    /// - Throws: `ForkingError.timedOut`, or `.system` from recv(2).
    public mutating func read(upTo limit: Int = 65_536) throws(ForkingError) -> [UInt8] {
        precondition(limit > 0, "there is nothing to read into")
        if unread.isEmpty { _ = try fill(upTo: limit) }
        return take(min(limit, unread.count))
    }

    private mutating func take(_ count: Int) -> [UInt8] {
        let taken = unread.lowerBound..<unread.lowerBound + count
        unread = taken.upperBound..<unread.upperBound
        return Array(buffer[taken])
    }

    /// Reads once, behind what is unread; returns how many bytes came, 0 at the end of the stream.
    ///
    /// Never asks for more than one piece at a time, so a peer that promises much costs no memory until it sends it.
    private mutating func fill(upTo wanted: Int) throws(ForkingError) -> Int {
        let piece = 16_384
        if unread.isEmpty { unread = 0..<0 }
        if unread.lowerBound > 0, buffer.count - unread.upperBound < min(wanted, piece) {
            buffer.removeSubrange(..<unread.lowerBound)
            unread = 0..<unread.count
        }
        let room = unread.upperBound + min(max(wanted, 4096), piece)
        if buffer.count < room {
            buffer.append(
                contentsOf: repeatElement(0, count: max(room, min(2 * buffer.count, room + piece)) - buffer.count))
        }
        var count = 0
        let code = buffer.withUnsafeMutableBytes { bytes in
            let free = UnsafeMutableRawBufferPointer(rebasing: bytes[unread.upperBound...])
            return forkcore_receive(descriptor.rawValue, free.baseAddress, free.count, &count)
        }
        try checkTimed(code, "recv")
        hasEnded = count == 0
        unread = unread.lowerBound..<unread.upperBound + count
        return count
    }

    // MARK: Writing

    /// Writes all of it, unbuffered, despite signals and partial writes. send(2).
    ///
    /// - Throws: `ForkingError.timedOut` if the peer takes nothing for the time-out, or `.system`.
    public func write(_ bytes: RawSpan) throws(ForkingError) {
        let code = bytes.withUnsafeBytes { forkcore_send_all(descriptor.rawValue, $0.baseAddress, $0.count) }
        try checkTimed(code, "send")
    }

    /// Writes all of it, unbuffered, despite signals and partial writes. send(2).
    public func write(_ bytes: [UInt8]) throws(ForkingError) {
        try write(bytes.span.bytes)
    }

    /// Writes all of it as UTF-8, unbuffered, despite signals and partial writes. send(2).
    public func write(_ text: String) throws(ForkingError) {
        try write(Array(text.utf8))
    }

    /// Says that nothing more will be written; what was written still arrives. shutdown(2).
    public func finishWriting() {
        forkcore_finish_sending(descriptor.rawValue)
    }

    /// Child, at its end: nothing is lost of what was written. A peer that sent more than was read would be sent a reset
    /// as the connection closes, which can overtake the answer; so what has come is thrown away first.
    func finish() {
        finishWriting()
        if !hasEnded { forkcore_discard_received(descriptor.rawValue) }
    }

    private func checkTimed(_ code: Int32, _ call: String) throws(ForkingError) {
        if code == Errno.resourceTemporarilyUnavailable.rawValue { throw .timedOut }
        try check(code, call)
    }

    // MARK: Options

    /// How long one read or write waits for the peer before it throws `.timedOut`; nil, as at first, for ever.
    /// SO_RCVTIMEO, SO_SNDTIMEO.
    ///
    /// A peer that sends a byte now and then is not held back by it; a limit on the whole connection is
    /// `ForkingServer.Configuration.timeLimit`.
    public func setTimeout(_ timeout: Duration?) throws(ForkingError) {
        if let timeout, timeout <= .zero { throw .invalid("a time-out of \(timeout) cannot be: it must be positive") }
        let microseconds = timeout.map { max(1, $0.inNanoseconds / 1000) } ?? 0
        try check(forkcore_set_timeout(descriptor.rawValue, microseconds), "setsockopt SO_RCVTIMEO")
    }

    /// Sends small writes at once instead of gathering them. TCP_NODELAY; TCP only.
    public func setNoDelay(_ on: Bool) throws(ForkingError) {
        try check(forkcore_set_no_delay(descriptor.rawValue, on), "setsockopt TCP_NODELAY")
    }
}
