// SPDX-License-Identifier: Apache-2.0

import CForkCore
public import SystemPackage

/// A connected stream socket of one client: TCP or Unix. Reads are buffered; writes are not.
///
/// A connection cannot be copied, and is closed when it is released, so its descriptor cannot leak. In a child of a
/// `ForkingServer` it belongs to the handler; the parent closes its own copy right after the fork. Writing to a peer
/// that has closed its end throws `ForkingError.Code.system` with `Errno.brokenPipe`, and never raises SIGPIPE.
public struct Connection: ~Copyable {
    /// The blocking descriptor, which the connection owns. Reading from it directly bypasses the buffer.
    public let descriptor: FileDescriptor
    /// The address of the other end.
    public let peer: SocketAddress

    /// True if the client may have attached descriptors that were never received (SCM_RIGHTS). Closing the last copy of
    /// the connection closes them too, which may block, so a process of its own does it: `forkcore_close_aside`.
    var mayHoldRights = false
    /// Parent: whether it was admitted already, and what it takes up then: see `SourceAdmission.Account.number`.
    var isAdmitted = false
    /// Parent: whether it was refused, and sent something that is to arrive.
    var wasTold = false
    var account: Int32 = -1
    private var buffer: [UInt8] = []
    private var unread: Range<Int> = 0..<0
    private var hasEnded = false
    /// True after `release()`: the descriptor has another owner.
    private var isReleased = false
    /// The number of bytes to read at once. It starts small, because most clients send little and each page that a
    /// child touches is a page fault, and grows while the peer fills it. It never depends on what a peer announces.
    private var piece = 1000
    private static let largestPiece = 65_536
    private var readDeadline: Instant?

    /// Takes over a connected stream socket, which is closed when the connection is released.
    public init(_ descriptor: FileDescriptor, peer: SocketAddress) {
        self.descriptor = descriptor
        self.peer = peer
    }

    deinit {
        if isReleased { return }
        if mayHoldRights { forkcore_close_aside(descriptor.rawValue) } else { forkcore_close(descriptor.rawValue) }
    }

    /// The local address. getsockname(2).
    ///
    /// - Throws: `ForkingError.Code.system`.
    public var local: SocketAddress {
        get throws(ForkingError) { try SocketAddress(boundTo: descriptor.rawValue) }
    }

    // MARK: Reading

    /// Reads up to and including the next newline. At the end of the stream, returns the rest, if any, and then nil.
    /// recv(2).
    ///
    /// - Parameter limit: the maximum length of a line in bytes, including its newline.
    /// - Throws: `ForkingError.Code.lineTooLong`, `.timedOut`, or `.system`.
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

    /// Reads exactly `count` bytes. recv(2).
    ///
    /// - Throws: `ForkingError.Code.endOfStream` if the peer closes its end first, `.timedOut`, or `.system`.
    public mutating func read(exactly count: Int) throws(ForkingError) -> [UInt8] {
        precondition(count >= 0, "a count of bytes cannot be negative")
        while unread.count < count {
            if try fill(upTo: count - unread.count) == 0 {
                throw .endOfStream(received: unread.count, expected: count)
            }
        }
        return take(count)
    }

    /// Reads the bytes that are available, at least one and at most `limit`, waiting for the first. Returns an empty
    /// array at the end of the stream. recv(2).
    ///
    /// - Throws: `ForkingError.Code.timedOut`, or `.system`.
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

    /// Reads once, appending to the unread bytes. Returns the number of bytes read, 0 at the end of the stream.
    private mutating func fill(upTo wanted: Int) throws(ForkingError) -> Int {
        if unread.lowerBound > 0 {
            buffer.removeSubrange(..<unread.lowerBound)
            unread = 0..<unread.count
        }
        var bytes = buffer
        buffer = []  // a single reference, so that appending does not copy
        defer { buffer = bytes }
        let count = try receive(upTo: min(wanted, piece), behind: unread.count, of: &bytes)
        unread = 0..<unread.count + count
        note(count)
        return count
    }

    /// Reads at most `room` bytes once, into `bytes` after the first `kept`. Returns the number of bytes read.
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

    /// Writes all bytes, unbuffered, retrying after signals and partial writes. send(2).
    ///
    /// - Throws: `ForkingError.Code.timedOut` if the peer accepts nothing within the timeout, or `.system`.
    public func write(_ bytes: RawSpan) throws(ForkingError) {
        let code = bytes.withUnsafeBytes { forkcore_send_all(descriptor.rawValue, $0.baseAddress, $0.count) }
        try checkTimed(code, "send")
    }

    /// Writes all bytes, as above.
    public func write(_ bytes: [UInt8]) throws(ForkingError) {
        try write(bytes.span.bytes)
    }

    /// Writes the text as UTF-8, as above.
    public func write(_ text: String) throws(ForkingError) {
        try write(Array(text.utf8))
    }

    /// Ends the stream in this direction; what was written still arrives. shutdown(2).
    public func finishWriting() {
        forkcore_finish_sending(descriptor.rawValue)
    }

    /// Child, at its end: makes sure that the peer receives everything that was written, even if it continues to send.
    /// Discards what it sends until it has acknowledged everything or closes its end, for at most `longestFinish`.
    func finish() {
        guard !hasEnded else { return finishWriting() }
        forkcore_finish(descriptor.rawValue, peer.isUnix, Self.longestFinish.inMilliseconds)
    }

    static let longestFinish = Duration.seconds(2)

    /// Worker: the same without waiting. Returns whether it is too early to close.
    func beginFinish() -> Bool {
        guard !peer.isUnix, !hasEnded else {
            finish()
            return false
        }
        finishWriting()
        return true
    }

    /// Gives up the descriptor, which stays open and belongs to the caller.
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

    /// Sets how long one read or write waits for the peer before it throws `.timedOut`. Nil, the initial value, means
    /// no timeout. SO_RCVTIMEO, SO_SNDTIMEO.
    ///
    /// A peer that sends a byte now and then never exceeds it: see `limitReading(to:)`.
    /// `ForkingServer.Configuration.child` limits the whole connection.
    ///
    /// - Throws: `ForkingError.Code.invalid` if `timeout` is not positive; `.system`.
    public func setTimeout(_ timeout: Duration?) throws(ForkingError) {
        if let timeout, timeout <= .zero { throw .invalid("timeout is \(timeout), and must be positive") }
        let microseconds = timeout?.inMicroseconds ?? 0
        try check(forkcore_set_timeout(descriptor.rawValue, microseconds), "setsockopt SO_RCVTIMEO")
    }

    /// Sets how long all reads from now on may take together, such as those of one request; then they throw
    /// `.timedOut`. Nil, the initial value, means no limit. With a limit, each read makes one more system call.
    /// poll(2).
    public mutating func limitReading(to time: Duration?) { readDeadline = time.map { .now + $0 } }

    /// Sends small writes at once instead of gathering them. TCP only. TCP_NODELAY.
    ///
    /// - Throws: `ForkingError.Code.system`.
    public func setNoDelay(_ on: Bool) throws(ForkingError) {
        try check(forkcore_set_no_delay(descriptor.rawValue, on), "setsockopt TCP_NODELAY")
    }
}
