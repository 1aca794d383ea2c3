// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// A zygote's child: receives the request from its channel, runs the handler, replies and ends.
struct ZygoteChild: BitwiseCopyable {
    let channel: Int32
    let limits: forkcore_limits
    let ordered: Instant
    let tally: ZygoteTally

    /// Returns the exit status.
    func run(_ handler: Zygote.Handlers.Handler) -> Int32 {
        let forking = (Instant.now - ordered).inNanoseconds
        var answer: CallMessage
        do {
            guard let message = try awaitRequest() else { return 1 }
            answer = try limitError() ?? reply(to: message, handler)
        } catch {
            answer = CallMessage(threw: error)
        }
        answer.head.usage = .own
        answer.head.forking = forking
        answer.head.tally = tally
        fflush(nil)  // write the child's output before the host has the reply and may kill the child
        do {
            try answer.post(over: channel)
        } catch {
            // Too many descriptors, or no memory for the reply: an error message can still be sent.
            try? CallMessage(threw: error).post(over: channel)
        }
        return answer.kind == .reply ? 0 : 1
    }

    /// The host sends the request after the fork request, so it may not be there yet.
    private func awaitRequest() throws -> CallMessage? {
        while true {
            if let message = try CallMessage.receiveRequest(over: channel) { return message }
            _ = try waitUntilReadable(channel)
        }
    }

    private func limitError() -> CallMessage? {
        var limits = limits
        var call: UnsafePointer<CChar>?
        if limits.memory > 0 { forkcore_share_one_arena() }
        let code = forkcore_limit(&limits, &call)
        guard code != 0 else { return nil }
        var message = CallMessage(.limitRefused, CallMessage.bytes(call.map { String(cString: $0) } ?? ""))
        message.head.code = code
        return message
    }

    private func reply(to message: CallMessage, _ handler: Zygote.Handlers.Handler) throws -> CallMessage {
        let descriptors = message.descriptors.map(FileDescriptor.init(rawValue:))
        var request = Zygote.Request(message.bytes, descriptors: descriptors)
        var peer: SocketAddress?
        if message.head.peer > 0 {
            peer = SocketAddress(bytes: request.bytes.prefix(Int(message.head.peer)))
            request.bytes.removeFirst(Int(message.head.peer))
        }
        switch handler {
        case .answer(let answer):
            return answered(try answer(request), expecting: message.head.descriptors)
        case .serve(let serve):
            guard !request.descriptors.isEmpty else { throw ForkingError.invalid("no connection was handed off") }
            let descriptor = request.descriptors.removeFirst()
            // getpeername(2) fails for a client that has gone, so the host sends the address. What the client sent can
            // still be read.
            var connection = Connection(descriptor, peer: try peer ?? SocketAddress(peerOf: descriptor.rawValue))
            do { try serve(&connection, request) } catch {
                connection.finish()
                throw error
            }
            connection.finish()
            return answered(Zygote.Reply(), expecting: message.head.descriptors)
        }
    }

    /// Descriptors that the call does not expect are not sent, but their number is.
    private func answered(_ reply: Zygote.Reply, expecting count: UInt32) -> CallMessage {
        let descriptors = reply.takeDescriptors().map(\.rawValue)
        var message = CallMessage(.reply, reply.bytes, descriptors: descriptors.count == count ? descriptors : [])
        message.head.descriptors = UInt32(descriptors.count)
        return message
    }
}
