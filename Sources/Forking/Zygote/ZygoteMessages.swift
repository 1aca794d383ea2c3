// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// Host to zygote, with one descriptor: the child's end of a call's channel. The request itself waits in that channel, for the
/// child alone: nothing of it is ever in the zygote's memory, of which all later children have a copy.
struct Order: BitwiseCopyable {
    static let longestName = 64

    enum Kind: UInt8 {
        /// A child is to run the handler whose name follows.
        case call
        /// No more orders: the zygote ends when its last child has.
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
    /// What is longer goes through a file in memory, and not through the socket's buffer.
    static let longestInline = 32_768

    enum Kind: UInt8 {
        /// Host to child.
        case request
        /// Child to host: the handler's answer; with a type's name and a text what it threw; with a call's name what refused.
        case reply, threw, limitRefused
        /// Zygote to host, with a call's name: there is no child.
        case notForked
        /// Zygote to host: how the child ended.
        case ended
    }

    /// Nothing but numbers: whatever a child sends, these are some.
    struct Head: BitwiseCopyable {
        /// A `Kind`.
        var kind: UInt8
        /// Not 0: the payload is in a file in memory, the first of the descriptors.
        var isInFile: UInt8 = 0
        /// Of a refusal, the errno.
        var code: Int32 = 0
        var count: UInt64 = 0
        var end = End()
        var usage = Usage()
        /// From the order's arrival in the zygote to the child's first step, in nanoseconds.
        var forking: Int64 = 0
        var tally = ZygoteTally()

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
        self.init(.threw, Self.bytes("\(type(of: error))", "\(error)"))
    }

    // MARK: Sending

    /// Any process. Does not wait.
    func send(over channel: Int32) throws(ZygoteError) {
        guard descriptors.count < Int(FORKCORE_DESCRIPTORS) else {
            throw .invalid("\(descriptors.count) descriptors are too many: a call takes \(FORKCORE_DESCRIPTORS - 1)")
        }
        var head = head
        head.count = UInt64(bytes.count)
        if bytes.count <= Self.longestInline {
            let code = send(head, bytes, descriptors, channel)
            // A buffer smaller than Linux's default.
            guard [Errno.messageTooLong, .wouldBlock, .noBufferSpace].contains(Errno(rawValue: code)) else {
                return try checked(code, "sendmsg")
            }
        }
        var file: Int32 = -1
        try checked(forkcore_memory_file("forking", &file), "memfd_create")
        defer { forkcore_close(file) }
        do { try FileDescriptor(rawValue: file).writeAll(bytes) } catch { throw .failed("write", error) }
        head.isInFile = 1
        try checked(send(head, [], [file] + descriptors, channel), "sendmsg")
    }

    private func send(_ head: Head, _ bytes: [UInt8], _ descriptors: [Int32], _ channel: Int32) -> Int32 {
        withMutableMessage(head, bytes, descriptors) { forkcore_message_send(channel, &$0) }
    }

    // MARK: Receiving

    /// Any process. Nil when there is none yet; `.lost` when there will be none. What other processes send is trusted in
    /// nothing: a payload is only as long as it is, and reading it waits for nobody.
    static func receive(over channel: Int32, atMost longest: Int) throws(ZygoteError) -> CallMessage? {
        var size = 0
        switch forkcore_message_size(channel, &size) {
        case 0: break
        case EAGAIN: return nil
        case ESHUTDOWN: throw .lost(nextStart: nil)
        case let code: throw .system(call: "recv", Errno(rawValue: code))
        }
        // A child may have given its socket a larger buffer.
        guard size - MemoryLayout<Head>.size <= max(longest, longestInline) else {
            throw tooLong(UInt64(size), longest)
        }
        var message = CallMessage(.ended)
        let code = message.take(channel, size)
        if code == EAGAIN { return nil }
        guard code != EMSGSIZE else { throw .invalid("the child sent what is no answer") }
        try checked(code, "recvmsg")
        if message.head.isInFile != 0 { try message.readFile(atMost: longest) }
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
            if code == 0 { descriptors = Array(numbers.prefix(message.descriptor_count)) }
            return code
        }
    }

    private mutating func readFile(atMost longest: Int) throws(ZygoteError) {
        guard head.count <= UInt64(longest) else {
            closeDescriptors()
            throw Self.tooLong(head.count, longest)
        }
        guard let file = descriptors.first, forkcore_is_memory_file(file, head.count) else {
            closeDescriptors()
            throw .invalid("the child sent what is no answer")
        }
        descriptors.removeFirst()
        defer { forkcore_close(file) }
        let count = Int(head.count)
        bytes = [UInt8](unsafeUninitializedCapacity: count) { free, filled in
            while filled < count {
                let got = pread(file, free.baseAddress! + filled, count - filled, off_t(filled))
                if got < 0, errno == EINTR { continue }
                guard got > 0 else { return }
                filled += got
            }
        }
        guard bytes.count == count else {
            closeDescriptors()
            throw .invalid("the payload was cut short while it was read")
        }
    }

    static func tooLong(_ count: UInt64, _ longest: Int) -> ZygoteError {
        .invalid("the answer has \(count) bytes, and may have \(longest): see maxReplyBytes")
    }

    func closeDescriptors() { descriptors.forEach(forkcore_close) }

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
    var head = head
    return withUnsafeMutableBytes(of: &head) { head in
        bytes.withUnsafeBytes { bytes in
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
}

/// Makes an error of what a C function returned, unless that is 0.
func checked(_ code: Int32, _ call: String) throws(ZygoteError) {
    if code != 0 { throw .system(call: call, Errno(rawValue: code)) }
}

extension ZygoteError {
    static func failed(_ call: String, _ error: any Error) -> ZygoteError {
        .system(call: call, error as? Errno ?? .ioError)
    }
}
