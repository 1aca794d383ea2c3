// SPDX-License-Identifier: Apache-2.0
//
// Host and child: messages on an isolate's channel. Each is received by one system call, without asking for its size.

import CForkCore
import Glibc
import SystemPackage

extension CallMessage {
    /// Child: waits for what the host sends next. Nil at its end. Trusts the host.
    static func awaitOrder(over channel: Int32) throws(ForkingError) -> CallMessage? {
        do throws(ForkingError) {
            guard var message = try receiveAtOnce(over: channel, forkcore_message_await) else { return nil }
            if message.head.isInFile != 0 { try message.readFile() }
            return message
        } catch {
            if error.code == .zygoteLost { return nil }
            throw error
        }
    }

    /// Child: the same, but returns nil if nothing has come, and throws `.zygoteLost` at its end.
    static func receiveOrder(over channel: Int32) throws(ForkingError) -> CallMessage? {
        guard var message = try receiveAtOnce(over: channel, forkcore_message_receive) else { return nil }
        if message.head.isInFile != 0 { try message.readFile() }
        return message
    }

    /// Host: as `receive`.
    static func receiveNext(over channel: Int32) throws(ForkingError) -> CallMessage? {
        try receiveAtOnce(over: channel, forkcore_message_receive)
    }

    private static func receiveAtOnce(
        over channel: Int32, _ receive: (Int32, UnsafeMutablePointer<forkcore_message>?) -> Int32
    ) throws(ForkingError) -> CallMessage? {
        var result = CallMessage(.ended)
        let code = withUnsafeTemporaryAllocation(byteCount: longestInline, alignment: 8) { room in
            withUnsafeTemporaryAllocation(of: Int32.self, capacity: Int(FORKCORE_DESCRIPTORS)) { numbers in
                var message = forkcore_message()
                message.head_size = MemoryLayout<Head>.size
                message.bytes = room.baseAddress
                message.count = room.count
                message.descriptors = numbers.baseAddress
                message.descriptor_count = numbers.count
                let code = withUnsafeMutableBytes(of: &result.head) {
                    message.head = $0.baseAddress
                    return receive(channel, &message)
                }
                if code == 0 { result.bytes = Array(room.prefix(message.count)) }
                if message.descriptor_count > 0 { result.descriptors = Array(numbers.prefix(message.descriptor_count)) }
                return code
            }
        }
        if code != 0 { result.discardDescriptors() }
        switch code {
        case 0: return result
        case EAGAIN: return nil
        case ESHUTDOWN: throw .lost(nextStart: nil)
        case EMSGSIZE: throw noAnswer
        case let code: throw .system(call: "recvmsg", Errno(rawValue: code))
        }
    }
}

extension CallMessage {
    /// Child. Descriptors that the call does not expect are not sent, but their number is.
    init(_ reply: Zygote.Reply, expecting count: UInt32) {
        let descriptors = reply.takeDescriptors().map(\.rawValue)
        let areExpected = descriptors.count == count
        self.init(.reply, reply.bytes, descriptors: areExpected ? descriptors : [])
        if !areExpected { descriptors.forEach(forkcore_close) }
        head.descriptors = UInt32(descriptors.count)
    }
}
