// SPDX-License-Identifier: Apache-2.0

import CForkCore
public import SystemPackage

/// One client's stream: TCP or Unix. Reads are buffered, writes are not.
///
/// It cannot be copied, and is closed when it goes away, so its descriptor cannot leak. In a child it belongs to the
/// handler; the parent drops its own copy right after fork. Writing to a peer that has gone throws
/// `ForkingError.Code.system` with `Errno.brokenPipe`, and never raises SIGPIPE.
public struct Connection: ~Copyable {
    /// The descriptor, blocking; it stays the connection's. What is read from it directly passes the buffer by.
    public let descriptor: FileDescriptor
    /// Who is at the other end.
    public let peer: SocketAddress

    /// Whether its client may have attached descriptors that nobody took, which this process is not to wait for as it
    /// closes the last copy of the connection.
    var mayHoldRights = false
    private var buffer: [UInt8] = []
    private var unread: Range<Int> = 0..<0
    private var hasEnded = false
    /// The descriptor is somebody else's now.
    private var isReleased = false
    /// How much is read at once: little at first, as most clients send little, and each page that a child touches is a
    /// page fault; then more, as long as the peer fills it. Never what a peer only promises.
    private var piece = 1000
    private static let largestPiece = 65_536
    private var readDeadline: Instant?

    /// Takes a connected stream socket over; it is closed with the connection.
    public init(_ descriptor: FileDescriptor, peer: SocketAddress) {
        self.descriptor = descriptor
        self.peer = peer
    }

    deinit {
        if isReleased { return }
        if mayHoldRights { forkcore_close_aside(descriptor.rawValue) } else { forkcore_close(descriptor.rawValue) }
    }

    /// This end's address. getsockname(2).
    public var local: SocketAddress {
        get throws(ForkingError) { try SocketAddress(boundTo: descriptor.rawValue) }
    }

    // MARK: Reading

    /// Reads up to and with the next newline; at the end of the stream, what is left without one; then nil.
    ///
    /// - Parameter limit: the longest line in bytes, its newline included.
    /// - Throws: `ForkingError.Code.lineTooLong`, `.timedOut`, or `.system` from recv(2).
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
    /// - Throws: `ForkingError.Code.endOfStream` if the peer closes before, `.timedOut`, or `.system` from recv(2).
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
    /// - Throws: `ForkingError.Code.timedOut`, or `.system` from recv(2).
    public mutating func read(upTo limit: Int = 65_536) throws(ForkingError) -> [UInt8] {
        precondition(limit > 0, "there is nothing to read into")
        if !unread.isEmpty { return take(min(limit, unread.count)) }
        var bytes: [UInt8] = []
        note(try receive(upTo: min(limit, piece), behind: 0, of: &bytes))
        return bytes
    }

    private mutating func take(_ count: Int) -> [UInt8] {
        let taken = unread.lowerBound..<unread.lowerBound + count
        unread = taken.upperBound..<unread.upperBound
        return Array(buffer[taken])
    }

    /// Reads once, behind what is unread; returns how many bytes came, 0 at the end of the stream.
    private mutating func fill(upTo wanted: Int) throws(ForkingError) -> Int {
        if unread.lowerBound > 0 {
            buffer.removeSubrange(..<unread.lowerBound)
            unread = 0..<unread.count
        }
        var bytes = buffer
        buffer = []  // one array, not two that would be copied
        defer { buffer = bytes }
        let count = try receive(upTo: min(wanted, piece), behind: unread.count, of: &bytes)
        unread = 0..<unread.count + count
        note(count)
        return count
    }

    /// Reads once, at most `room` bytes, into `bytes` behind the first `kept`; returns how many came.
    private func receive(upTo room: Int, behind kept: Int, of bytes: inout [UInt8]) throws(ForkingError) -> Int {
        var count = 0
        var code: Int32 = 0
        if let deadline = readDeadline {
            try checkTimed(forkcore_await_input(descriptor.rawValue, (deadline - .now).inNanoseconds), "poll")
        }
        bytes.removeSubrange(kept...)
        if bytes.capacity < kept + room { bytes.reserveCapacity(max(kept + room, 2 * kept)) }
        bytes.append(addingCapacity: room) { free in
            free.withUnsafeMutableBufferPointer { free, filled in
                code = forkcore_receive(descriptor.rawValue, free.baseAddress, room, &count)
                filled += count
            }
        }
        try checkTimed(code, "recv")
        return count
    }

    private mutating func note(_ count: Int) {
        hasEnded = count == 0
        if count == piece { piece = min(4 * piece, Self.largestPiece) }
    }

    // MARK: Writing

    /// Writes all of it, unbuffered, despite signals and partial writes. send(2).
    ///
    /// - Throws: `ForkingError.Code.timedOut` if the peer takes nothing for the time-out, or `.system`.
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

    /// Child, at its end: nothing is lost of what was written, though the peer may go on sending. What it sends is
    /// thrown away, until it has acknowledged everything, or closes too; or for this long.
    func finish() {
        guard !hasEnded else { return finishWriting() }
        forkcore_finish(descriptor.rawValue, peer.isUnix, Self.longestFinish.inMilliseconds)
    }

    static let longestFinish = Duration.seconds(2)

    /// Worker: the same without waiting. Whether it is too early to close.
    func beginFinish() -> Bool {
        guard !peer.isUnix, !hasEnded else {
            finish()
            return false
        }
        finishWriting()
        return true
    }

    /// The descriptor, which is the caller's from now on, and stays open.
    consuming func release() -> FileDescriptor {
        isReleased = true
        return descriptor
    }

    private func checkTimed(_ code: Int32, _ call: String) throws(ForkingError) {
        if code == Errno.resourceTemporarilyUnavailable.rawValue { throw .timedOut }
        try check(code, call)
    }

    // MARK: Options

    func setUp(timeout: Duration?, noDelay: Bool) throws(ForkingError) {
        if let timeout { try setTimeout(timeout) }
        if noDelay, !peer.isUnix { try setNoDelay(true) }
    }

    /// How long one read or write waits for the peer before it throws `.timedOut`; nil, as at first, for ever.
    /// SO_RCVTIMEO, SO_SNDTIMEO.
    ///
    /// A peer that sends a byte now and then is not held back by it: see `limitReading(to:)`. A limit on the whole
    /// connection is `ForkingServer.Configuration.child`.
    public func setTimeout(_ timeout: Duration?) throws(ForkingError) {
        if let timeout, timeout <= .zero { throw .invalid("a time-out of \(timeout) cannot be: it must be positive") }
        let microseconds = timeout?.inMicroseconds ?? 0
        try check(forkcore_set_timeout(descriptor.rawValue, microseconds), "setsockopt SO_RCVTIMEO")
    }

    /// How long all reads from now on may take together, such as those of one request; then they throw `.timedOut`.
    /// Nil, as at first: as long as they like. A read takes one system call more while there is such a limit. poll(2).
    public mutating func limitReading(to time: Duration?) { readDeadline = time.map { .now + $0 } }

    /// Sends small writes at once instead of gathering them. TCP_NODELAY; TCP only.
    public func setNoDelay(_ on: Bool) throws(ForkingError) {
        try check(forkcore_set_no_delay(descriptor.rawValue, on), "setsockopt TCP_NODELAY")
    }
}
