// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// A zygote's child: takes the request from its channel, runs the handler, answers, ends.
struct ZygoteChild {
    let channel: Int32
    let limits: forkcore_limits
    let ordered: Instant
    let tally: ZygoteTally

    /// Returns the exit status.
    func run(_ handler: Zygote.Handlers.Handler) -> Int32 {
        let forking = (Instant.now - ordered).inNanoseconds
        var answer: CallMessage
        do {
            guard let message = try CallMessage.receive(over: channel, atMost: .max) else { return 1 }
            let request = Zygote.Request(
                bytes: message.bytes, descriptors: message.descriptors.map { FileDescriptor(rawValue: $0) })
            answer = try refusal() ?? reply(to: request, handler)
        } catch {
            answer = CallMessage(threw: error)
        }
        answer.head.usage = .own
        answer.head.forking = forking
        answer.head.tally = tally
        fflush(nil)  // what is printed is out before the host has the answer, and may kill who gave it
        do {
            try answer.send(over: channel)
        } catch {
            // Too many descriptors, or no memory for the file: that can still be said.
            try? CallMessage(threw: error).send(over: channel)
        }
        return answer.kind == .reply ? 0 : 1
    }

    private func refusal() -> CallMessage? {
        var limits = limits
        var call: UnsafePointer<CChar>?
        let code = forkcore_limit(&limits, &call)
        guard code != 0 else { return nil }
        var message = CallMessage(.limitRefused, CallMessage.bytes(call.map { String(cString: $0) } ?? ""))
        message.head.code = code
        return message
    }

    private func reply(to request: Zygote.Request, _ handler: Zygote.Handlers.Handler) throws -> CallMessage {
        switch handler {
        case .answer(let answer):
            let reply = try answer(request)
            return CallMessage(.reply, reply.bytes, descriptors: reply.descriptors.map(\.rawValue))
        case .serve(let serve):
            var request = request
            guard !request.descriptors.isEmpty else { throw ForkingError.invalid("no connection was handed off") }
            let descriptor = request.descriptors.removeFirst()
            var connection = Connection(descriptor, peer: try SocketAddress(peerOf: descriptor.rawValue))
            do { try serve(&connection, request) } catch {
                connection.finish()
                throw error
            }
            connection.finish()
            return CallMessage(.reply)
        }
    }
}
