// SPDX-License-Identifier: Apache-2.0
//
// Host, zygote and child: what they send to each other.

import CForkCore
import Glibc
import SystemPackage

/// Host to zygote, with one descriptor: the child's end of a call's channel. The request itself waits in that channel,
/// for the child alone: nothing of it is ever in the zygote's memory, of which all later children have a copy.
struct ForkRequest: BitwiseCopyable {
    static let longestName = 64

    enum Kind: UInt8 {
        /// A child is to run the handler whose name follows.
        case call
        /// No more fork requests: the zygote ends when its last child has.
        case drain
    }

    var kind = Kind.call
    var limits = forkcore_limits()
}

/// What the zygote counts. A child's copy comes with its answer.
struct ZygoteTally: BitwiseCopyable {
    var alive: Int64 = 0
    var forked: Int64 = 0
    var reaped: Int64 = 0
    /// Nanoseconds spent reaping.
    var reaping: Int64 = 0
}

/// What goes over a call's channel.
struct CallMessage {
    /// So much goes at once. A longer request goes through a file in memory, as the host does not wait for anybody to
    /// take it; a longer answer in parts: what a child has sent is then what it has written, and no descriptor need be
    /// taken.
    static let longestInline = 32_768

    enum Kind: UInt8 {
        /// Host to child.
        case request
        /// Child to host: the handler's answer; with a type's name and a text what it threw; with a call's name what
        /// refused.
        case reply, threw, limitRefused
        /// Zygote to host, with a call's name: there is no child.
        case notForked
        /// Zygote to host: how the child ended.
        case ended
        /// Child to host: part of an answer, whose end is a `reply`.
        case part
    }

    /// Nothing but numbers: whatever a child sends, these are some.
    struct Head: BitwiseCopyable {
        /// A `Kind`.
        var kind: UInt8
        /// Of a request, not 0: the payload is in a file in memory, the first of the descriptors.
        var isInFile: UInt8 = 0
        /// Of a refusal, the errno.
        var code: Int32 = 0
        /// How many bytes the whole request or answer has.
        var count: UInt64 = 0
        var end = End()
        var usage = Usage()
        /// From the fork request's arrival in the zygote to the child's first step, in nanoseconds.
        var forking: Int64 = 0
        var tally = ZygoteTally()
        /// Of a request, how many descriptors the answer is to have; of an answer, how many the handler gave.
        var descriptors: UInt32 = 0
        /// Of a request, how many of its first bytes are the address of a connection's peer.
        var peer: UInt32 = 0

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

    /// A text that is too long is cut: it is for people.
    init(_ kind: Kind, text: [UInt8]) { self.init(kind, Array(text.prefix(Self.longestInline))) }

    /// A request takes one less: there may be a file.
    static let mostDescriptors = Int(FORKCORE_DESCRIPTORS) - 1

    func checkDescriptors() throws(ForkingError) {
        guard descriptors.count <= Self.mostDescriptors else {
            throw .invalid("\(descriptors.count) descriptors are too many: a call takes \(Self.mostDescriptors)")
        }
    }

    // MARK: Sending

    /// Host, zygote. Does not wait.
    func send(over channel: Int32) throws(ForkingError) {
        try checkDescriptors()
        var head = head
        head.count = UInt64(bytes.count)
        if bytes.count <= Self.longestInline {
            let code = send(head, bytes, descriptors, channel)
            // A buffer smaller than Linux's default.
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
        withMutableMessage(head, bytes, descriptors) { forkcore_message_send(channel, &$0) }
    }

    /// Zygote: says what became of a child, which may have left no room for that.
    func sendWord(over channel: Int32) {
        guard send(head, bytes, [], channel) == EAGAIN else { return }
        _ = forkcore_message_make_room(channel)
        _ = send(head, bytes, [], channel)
    }

    /// Child. Waits for the host to take what there is no room for.
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

    /// Any process. Nil when there is none yet; `.lost` when there will be none. What other processes send is trusted
    /// in nothing. Whoever asks closes the descriptors that came.
    static func receive(over channel: Int32) throws(ForkingError) -> CallMessage? {
        var size = 0
        switch forkcore_message_size(channel, &size) {
        case 0: break
        case EAGAIN: return nil
        case ESHUTDOWN: throw .lost(nextStart: nil)
        case let code: throw .system(call: "recv", Errno(rawValue: code))
        }
        var message = CallMessage(.ended)
        // A child may have given its socket a larger buffer. What it sends then does not fit.
        let code = message.take(channel, min(size, MemoryLayout<Head>.size + longestInline))
        if code != 0 { message.discardDescriptors() }
        if code == EAGAIN { return nil }
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

    /// Child: takes the request, wherever it is. The host is trusted.
    static func receiveRequest(over channel: Int32) throws(ForkingError) -> CallMessage? {
        guard var message = try receive(over: channel) else { return nil }
        if message.head.isInFile != 0 { try message.readFile() }
        return message
    }

    private mutating func readFile() throws(ForkingError) {
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

    static let noAnswer = ForkingError.invalid("the child sent what is no answer")

    static func tooLong(_ count: UInt64, _ longest: Int) -> ForkingError {
        .invalid("the answer has \(count) bytes, and may have \(longest): see maxReplyBytes")
    }

    /// Host: closes what a stranger sent, which it does not wait for.
    mutating func discardDescriptors() {
        discard(descriptors)
        descriptors = []
    }

    // MARK: Texts

    /// Strings as bytes, and back.
    static func bytes(_ texts: String...) -> [UInt8] { Array(texts.joined(separator: "\0").utf8) }

    /// The texts, `count` of them, whatever came.
    func texts(_ count: Int) -> [String] {
        let parts = bytes.split(separator: 0, maxSplits: count - 1, omittingEmptySubsequences: false)
        return (0..<count).map { $0 < parts.count ? String(decoding: parts[$0], as: UTF8.self) : "" }
    }
}

/// Any process: calls `body` with a message for C.
func withMutableMessage<Head: BitwiseCopyable, R>(
    _ head: Head, _ bytes: [UInt8], _ descriptors: [Int32], _ body: (inout forkcore_message) -> R
) -> R {
    bytes.withUnsafeBytes { withMutableMessage(head, $0, descriptors, body) }
}

private func withMutableMessage<Head: BitwiseCopyable, R>(
    _ head: Head, _ bytes: UnsafeRawBufferPointer, _ descriptors: [Int32], _ body: (inout forkcore_message) -> R
) -> R {
    var head = head
    return withUnsafeMutableBytes(of: &head) { head in
        descriptors.withUnsafeBufferPointer { descriptors in
            var message = forkcore_message(
                head: head.baseAddress, head_size: head.count,
                bytes: UnsafeMutableRawPointer(mutating: bytes.baseAddress), count: bytes.count,
                descriptors: UnsafeMutablePointer(mutating: descriptors.baseAddress),
                descriptor_count: descriptors.count)
            return body(&message)
        }
    }
}

/// Host: closes descriptors that a stranger sent, without waiting, whatever it takes. Where there is no memory for
/// that, they stay open.
func discard(_ descriptors: [Int32]) {
    guard !descriptors.isEmpty else { return }
    _ = forkcore_discard(descriptors, descriptors.count)
}
