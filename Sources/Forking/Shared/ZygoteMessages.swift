// SPDX-License-Identifier: Apache-2.0
//
// Host, zygote and child: the messages that they send to each other.

import CForkCore
import Glibc
import SystemPackage

/// Host to zygote. The request itself goes through a call's channel to the child only, so that no part of it is ever in
/// the zygote's memory, which all later children inherit.
struct ForkRequest: BitwiseCopyable {
    enum Kind: UInt8 {
        /// Fork a child for a call. One descriptor comes with it: the child's end of the call's channel.
        case call
        /// Fork `count` warm children. The zygote makes their channels, and sends the host's ends.
        case warm
        /// No more fork requests will come: the zygote ends when its last child has ended.
        case drain
    }

    var kind: Kind
    var count: UInt32 = 0

    init(_ kind: Kind, count: Int = 0) {
        self.kind = kind
        self.count = UInt32(count)
    }
}

/// A message on a call's channel.
struct CallMessage {
    /// The most bytes in one message. A longer request goes through a memfd, because the host does not wait for the
    /// child to read it. A longer reply goes in parts: the host then reads only what the child has sent, and needs no
    /// descriptor for it.
    static let longestInline = 32_768

    enum Kind: UInt8 {
        /// Host to child.
        case request
        /// Child to host: the handler's reply; or the type and the text of what it threw; or the name of the system
        /// call that could not apply a limit.
        case reply, threw, limitRefused
        /// Zygote to host, with the name of the failed system call: the child was not forked.
        case notForked
        /// Zygote to host: how the child ended.
        case ended
        /// Child to host: part of a reply, whose last part is a `reply`.
        case part
        /// Zygote to host, on its own socket: it is ready. With the file of its tally.
        case ready
        /// Zygote to host, on its own socket: the host's ends of warm children's channels.
        case forked
        /// Host to the child of an isolate: a further call; a call that nobody waits for any more; no further call will
        /// come. The replies are those of a call.
        case call, cancel, close
    }

    /// Contains only numbers, so that any bytes from a child are a valid head.
    struct Head: BitwiseCopyable {
        /// The raw value of a `Kind`.
        var kind: UInt8
        /// Of a request: not 0 if the payload is in a memfd, which is then the first descriptor.
        var isInFile: UInt8 = 0
        /// Of a failure: the errno.
        var code: Int32 = 0
        /// The number of bytes of the whole request or reply.
        var count: UInt64 = 0
        var end = End()
        var usage = Usage()
        /// From the arrival of the fork request in the zygote to the child's first step, in nanoseconds; 0 of a warm
        /// child.
        var forking: Int64 = 0
        /// Of a request: the number of descriptors that the reply must have. Of a reply: the number that the handler
        /// returned.
        var descriptors: UInt32 = 0
        /// Of a request: how many bytes of its lead are the socket address of a connection's peer, and how many are the
        /// call's context.
        var peer: UInt16 = 0
        var context: UInt16 = 0
        /// Of an isolate's call, and of its reply: the call's number, which is not 0.
        var call: UInt64 = 0
        /// Of a request: the handler, and the child's limits.
        var handler = HandlerName()
        var limits = forkcore_limits()

        init(_ kind: Kind) { self.kind = kind.rawValue }
    }

    /// An exit code, or a signal if that is not 0.
    struct End: BitwiseCopyable {
        var code: Int32 = 0
        var signal: Int32 = 0
        var dumpedCore: Int32 = 0
        var isUnknown: Int32 = 0
    }

    struct Usage: BitwiseCopyable {
        var userMicroseconds: Int64 = 0
        var systemMicroseconds: Int64 = 0
        var maxResidentKiB: Int64 = 0
        var minorFaults: Int64 = 0
        var majorFaults: Int64 = 0
    }

    var head: Head
    var kind: Kind? { Kind(rawValue: head.kind) }
    /// Of a request: what the library sends with it, between the head and the bytes. Always inline, so that nothing is
    /// put before bytes that may be many.
    var lead: [UInt8] = []
    var bytes: [UInt8] = []
    var descriptors: [Int32] = []

    init(_ kind: Kind, _ bytes: [UInt8] = [], descriptors: [Int32] = []) {
        head = Head(kind)
        self.bytes = bytes
        self.descriptors = descriptors
    }

    init(threw error: any Error) {
        self.init(.threw, text: Self.bytes("\(type(of: error))", "\(error)"))
    }

    /// Truncates a text that is too long: only people read it.
    init(_ kind: Kind, text: [UInt8]) { self.init(kind, Array(text.prefix(Self.longestInline))) }

    /// One descriptor less than a message can carry: a request may need one for a memfd.
    static let mostDescriptors = Int(FORKCORE_DESCRIPTORS) - 1

    func checkDescriptors() throws(ForkingError) {
        guard descriptors.count <= Self.mostDescriptors else {
            throw .invalid("\(descriptors.count) descriptors are too many: a call takes \(Self.mostDescriptors)")
        }
    }

    // MARK: Sending

    /// Host, zygote. Never blocks.
    func send(over channel: Int32) throws(ForkingError) {
        try checkDescriptors()
        var head = head
        head.count = UInt64(bytes.count)
        if lead.count + bytes.count <= Self.longestInline {
            let code = send(head, bytes, descriptors, channel)
            // The socket's buffer is smaller than Linux's default.
            guard [Errno.messageTooLong, .wouldBlock, .noBufferSpace].contains(Errno(rawValue: code)) else {
                return try check(code, "sendmsg")
            }
        }
        var file: Int32 = -1
        try check(forkcore_memory_file("forking", &file), "memfd_create")
        defer { forkcore_close(file) }
        try check(forkcore_write_all(file, bytes, bytes.count), "write")
        head.isInFile = 1
        try check(send(head, [], [file] + descriptors, channel), "sendmsg")
    }

    private func send(_ head: Head, _ bytes: [UInt8], _ descriptors: [Int32], _ channel: Int32) -> Int32 {
        guard !lead.isEmpty else {
            return withMutableMessage(head, bytes, descriptors) { forkcore_message_send(channel, &$0) }
        }
        var start = withUnsafeBytes(of: head) { Array($0) } + lead
        return start.withUnsafeMutableBytes { start in
            bytes.withUnsafeBytes { bytes in
                withMutableMessage(startingWith: start, bytes, descriptors) { forkcore_message_send(channel, &$0) }
            }
        }
    }

    /// Zygote: reports what became of a child. If the child has filled the socket's buffer, makes room first.
    func sendWord(over channel: Int32) {
        guard send(head, bytes, [], channel) == EAGAIN else { return }
        _ = forkcore_message_make_room(channel)
        _ = send(head, bytes, [], channel)
    }

    /// Child. Blocks while the socket's buffer is full, until the host reads from it.
    func post(over channel: Int32) throws(ForkingError) {
        try checkDescriptors()
        var head = head
        head.count = UInt64(bytes.count)
        var piece = Self.longestInline
        let code = bytes.withUnsafeBytes { all in
            var rest = all[...]
            while true {
                let isLast = rest.count <= piece
                var part = head
                if !isLast { part.kind = Kind.part.rawValue }
                let code = withMutableMessage(
                    part, UnsafeRawBufferPointer(rebasing: rest.prefix(piece)), isLast ? descriptors : []
                ) { forkcore_message_post(channel, &$0) }
                if code == EMSGSIZE, piece > 512 {  // a buffer smaller than Linux's default
                    piece /= 2
                } else if code != 0 || isLast {
                    return code
                } else {
                    rest = rest.dropFirst(piece)
                }
            }
        }
        try check(code, "sendmsg")
    }

    // MARK: Receiving

    /// Any process. Returns nil if no message has arrived; throws `.zygoteLost` at end of file. Nothing in a message is
    /// trusted. The caller must close the descriptors that it carries.
    ///
    /// - Parameter evenWithoutDescriptors: receive a message without its descriptors, too, if this process has no room
    ///   for them. Otherwise that is an error, and the message is lost.
    static func receive(
        over channel: Int32, evenWithoutDescriptors: Bool = false
    ) throws(ForkingError) -> CallMessage? {
        var size = 0
        switch forkcore_message_size(channel, &size) {
        case 0: break
        case EAGAIN: return nil
        case ESHUTDOWN: throw .lost(nextStart: nil)
        case let code: throw .system(call: "recv", Errno(rawValue: code))
        }
        var message = CallMessage(.ended)
        // A child may have enlarged its socket's buffer. A message that is then too long does not fit here.
        let code = message.take(channel, min(size, MemoryLayout<Head>.size + longestInline))
        if code != 0 { message.discardDescriptors() }
        if code == EAGAIN { return nil }
        if code == EMFILE, evenWithoutDescriptors { return message }
        guard code != EMSGSIZE else { throw noAnswer }
        try check(code, "recvmsg")
        return message
    }

    private mutating func take(_ channel: Int32, _ size: Int) -> Int32 {
        let room = max(0, size - MemoryLayout<Head>.size)
        return withUnsafeTemporaryAllocation(of: Int32.self, capacity: Int(FORKCORE_DESCRIPTORS)) { numbers in
            var message = forkcore_message()
            message.head_size = MemoryLayout<Head>.size
            message.descriptors = numbers.baseAddress
            message.descriptor_count = numbers.count
            var code: Int32 = 0
            bytes = [UInt8](unsafeUninitializedCapacity: room) { free, filled in
                message.bytes = UnsafeMutableRawPointer(free.baseAddress)
                message.count = room
                code = withUnsafeMutableBytes(of: &head) {
                    message.head = $0.baseAddress
                    return forkcore_message_receive(channel, &message)
                }
                filled = code == 0 ? message.count : 0
            }
            descriptors = Array(numbers.prefix(message.descriptor_count))
            return code
        }
    }

    /// Child: receives the request, from the channel or from a memfd. Trusts the host.
    static func receiveRequest(over channel: Int32) throws(ForkingError) -> CallMessage? {
        guard var message = try receive(over: channel) else { return nil }
        try message.takeLead()
        if message.head.isInFile != 0 { try message.readFile() }
        return message
    }

    private mutating func takeLead() throws(ForkingError) {
        let count = Int(head.peer) + Int(head.context)
        guard count > 0 else { return }
        guard count <= bytes.count else { throw .invalid("malformed request from the host") }
        lead = Array(bytes.prefix(count))
        bytes.removeFirst(count)
    }

    mutating func readFile() throws(ForkingError) {
        let file = descriptors.removeFirst()
        defer { forkcore_close(file) }
        let count = Int(head.count)
        bytes = [UInt8](unsafeUninitializedCapacity: count) { free, filled in
            while filled < count {
                let got = pread(file, free.baseAddress! + filled, count - filled, off_t(filled))
                if failure(of: got) == EINTR { continue }
                guard got > 0 else { return }
                filled += got
            }
        }
        guard bytes.count == count else { throw .invalid("the request was cut short while it was read") }
    }

    static let noAnswer = ForkingError.invalid("malformed reply from the child")

    static func tooLong(_ count: UInt64, _ longest: Int) -> ForkingError {
        .invalid("the reply has \(count) bytes, and may have \(longest): see maxReplyBytes")
    }

    /// Host: closes the descriptors that a child sent, without blocking.
    mutating func discardDescriptors() {
        discard(descriptors)
        descriptors = []
    }

    // MARK: Texts

    /// Joins strings with NUL bytes.
    static func bytes(_ texts: String...) -> [UInt8] { Array(texts.joined(separator: "\0").utf8) }

    /// Splits at NUL bytes; always returns `count` strings, some perhaps empty.
    func texts(_ count: Int) -> [String] {
        let parts = bytes.split(separator: 0, maxSplits: count - 1, omittingEmptySubsequences: false)
        return (0..<count).map { $0 < parts.count ? String(decoding: parts[$0], as: UTF8.self) : "" }
    }
}

/// Any process: calls `body` with a message for the C functions.
func withMutableMessage<Head: BitwiseCopyable, R>(
    _ head: Head, _ bytes: [UInt8], _ descriptors: [Int32], _ body: (inout forkcore_message) -> R
) -> R {
    bytes.withUnsafeBytes { withMutableMessage(head, $0, descriptors, body) }
}

private func withMutableMessage<Head: BitwiseCopyable, R>(
    _ head: Head, _ bytes: UnsafeRawBufferPointer, _ descriptors: [Int32], _ body: (inout forkcore_message) -> R
) -> R {
    var head = head
    return withUnsafeMutableBytes(of: &head) { withMutableMessage(startingWith: $0, bytes, descriptors, body) }
}

private func withMutableMessage<R>(
    startingWith head: UnsafeMutableRawBufferPointer, _ bytes: UnsafeRawBufferPointer, _ descriptors: [Int32],
    _ body: (inout forkcore_message) -> R
) -> R {
    descriptors.withUnsafeBufferPointer { descriptors in
        var message = forkcore_message(
            head: head.baseAddress, head_size: head.count,
            bytes: UnsafeMutableRawPointer(mutating: bytes.baseAddress), count: bytes.count,
            descriptors: UnsafeMutablePointer(mutating: descriptors.baseAddress), descriptor_count: descriptors.count)
        return body(&message)
    }
}

/// Host: closes descriptors that a child sent. Never blocks, even if close(2) would. If there is no memory for that,
/// they stay open.
func discard(_ descriptors: [Int32]) {
    guard !descriptors.isEmpty else { return }
    _ = forkcore_discard(descriptors, descriptors.count)
}
