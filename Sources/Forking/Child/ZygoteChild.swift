// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// A zygote's child: receives the request from its channel, runs the handler, replies and ends.
struct ZygoteChild: BitwiseCopyable {
    let channel: Int32
    /// When the fork request came; nil for a warm child.
    let requested: Instant?
    let names: HandlerNames
    let marks: ChannelMarks

    /// Returns the exit status.
    func run(_ handlers: Zygote.Handlers) -> Int32 {
        let forking = requested.map { (Instant.now - $0).inNanoseconds } ?? 0
        if requested == nil { rehearse() }
        var answer: CallMessage
        do {
            guard let request = try awaitRequest() else { return 1 }
            if let error = limitError(request.head.limits) {
                answer = error
            } else if case .isolate(let serve) = try handler(for: request, handlers) {
                try serve(Zygote.IsolateSession(request, channel, marks))
                return 0
            } else {
                answer = try reply(to: request, handlers)
            }
        } catch {
            answer = CallMessage(threw: error)
        }
        answer.head.usage = .own
        answer.head.forking = forking
        fflush(nil)  // write the child's output before the host has the reply and may kill the child
        do {
            try answer.post(over: channel)
        } catch {
            // Too many descriptors, or no memory for the reply: an error message can still be sent.
            try? CallMessage(threw: error).post(over: channel)
        }
        sched_yield()  // to the host: the exit takes longer than the host needs to receive the reply
        return answer.kind == .reply ? 0 : 1
    }

    /// Does once what a call does, around the handler. A child has a page fault for each page that it touches first, of
    /// code, too: some twenty, which take longer than all that a small call does. A warm child has time for them before
    /// its call.
    private func rehearse() {
        _ = (marks.time(channel), Instant.now)
        guard let pair = try? DescriptorPair() else { return }
        var request = CallMessage(.request, [0])
        request.head.handler = HandlerName("")
        guard (try? request.send(over: pair.ours.rawValue)) != nil,
            let message = try? CallMessage.receiveRequest(over: pair.theirs.rawValue)
        else { return }
        _ = names.number(of: message.head.handler)
        var answer = CallMessage(Zygote.Reply(Zygote.Request(message.bytes).bytes), expecting: 0)
        answer.head.usage = .own
        fflush(nil)
        try? answer.post(over: pair.theirs.rawValue)
    }

    /// Waits for the request, which to a warm child comes much later. Returns nil if the host hangs up instead.
    ///
    /// Marks the channel before it receives the request: should this child be killed in between, the zygote finds the
    /// request in the channel.
    private func awaitRequest() throws(ForkingError) -> CallMessage? {
        while try !waitUntilReadable(channel) {}
        marks.set(channel)
        do throws(ForkingError) {
            return try CallMessage.receiveRequest(over: channel)
        } catch {
            guard error.code == .zygoteLost else { throw error }
            return nil
        }
    }

    private func limitError(_ limits: forkcore_limits) -> CallMessage? {
        var limits = limits
        var call: UnsafePointer<CChar>?
        if limits.memory > 0 { forkcore_share_one_arena() }
        let code = forkcore_limit(&limits, &call)
        guard code != 0 else { return nil }
        var message = CallMessage(.limitRefused, CallMessage.bytes(call.map { String(cString: $0) } ?? ""))
        message.head.code = code
        return message
    }

    private func handler(for request: CallMessage, _ handlers: Zygote.Handlers) throws -> Zygote.Handlers.Handler {
        guard let number = names.number(of: request.head.handler) else {
            throw ForkingError.invalid("the zygote was started anew, and has no such handler this time")
        }
        return handlers.all[number].handler
    }

    private func reply(to message: CallMessage, _ handlers: Zygote.Handlers) throws -> CallMessage {
        let descriptors = message.descriptors.map(FileDescriptor.init(rawValue:))
        let request = Zygote.Request(message.bytes, descriptors: descriptors, context: message.context)
        let handler = try handler(for: message, handlers)
        // Without a hook no closure is made: each child would pay for the pages of its code.
        let reply =
            if let around = handlers.around {
                try run(handler, request, message, around)
            } else {
                try run(handler, request, message)
            }
        return CallMessage(reply, expecting: message.head.descriptors)
    }

    private func run(
        _ handler: Zygote.Handlers.Handler, _ request: Zygote.Request, _ message: CallMessage,
        _ around: (Zygote.Request, () throws -> Void) throws -> Void
    ) throws -> Zygote.Reply {
        var reply: Zygote.Reply?
        try around(request) {
            guard reply == nil else { throw ForkingError.invalid("the hook aroundHandler ran the handler twice") }
            reply = try run(handler, request, message)
        }
        guard let reply else { throw ForkingError.invalid("the hook aroundHandler did not run the handler") }
        return reply
    }

    private func run(
        _ handler: Zygote.Handlers.Handler, _ request: Zygote.Request, _ message: CallMessage
    ) throws -> Zygote.Reply {
        switch handler {
        case .answer(let answer): return try answer(request)
        case .serve(let serve):
            var request = request
            guard !request.descriptors.isEmpty else { throw ForkingError.invalid("no connection was handed off") }
            let descriptor = request.descriptors.removeFirst()
            // getpeername(2) fails for a client that has gone, so the host sends the address. What the client sent can
            // still be read.
            let peer = message.head.peer > 0 ? SocketAddress(bytes: message.lead.prefix(Int(message.head.peer))) : nil
            var connection = Connection(descriptor, peer: try peer ?? SocketAddress(peerOf: descriptor.rawValue))
            do { try serve(&connection, request) } catch {
                connection.finish()
                throw error
            }
            connection.finish()
            return Zygote.Reply()
        case .isolate: throw ForkingError.invalid("an isolate's handler answers no single call")
        }
    }
}
