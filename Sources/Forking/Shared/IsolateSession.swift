// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

extension Zygote {
    /// Child: the calls of its isolate, as they come from the host. One thread receives; any thread replies.
    package final class IsolateSession: @unchecked Sendable {
        /// A call that is to be replied to.
        package struct Call: Sendable {
            package let id: UInt64
            package let request: Request
            /// The number of descriptors that the reply must have.
            let expecting: UInt32
        }

        package enum Order: Sendable {
            case call(Call)
            /// Nobody waits for this call any more. It must be replied to nevertheless.
            case cancel(UInt64)
            /// No more calls.
            case close
        }

        /// What the isolate was made with.
        package let arguments: Request
        private let channel: Int32
        private let marks: ChannelMarks

        init(_ request: CallMessage, _ channel: Int32, _ marks: ChannelMarks) {
            arguments = Request(request.bytes, descriptors: request.descriptors.map(FileDescriptor.init(rawValue:)))
            self.channel = channel
            self.marks = marks
        }

        /// Tells the host that calls may come.
        package func tellStarted() throws {
            marks.settle(channel)
            try post(CallMessage(.reply))
        }

        /// Readable when there is an order, or when the host has ended.
        package var descriptor: Int32 { channel }
        private var isClosed = false

        /// A child on which the host has hung up is killed. It waits for that, so that its status does not say that it
        /// has ended by itself.
        private static let killedWithin: UInt32 = 10

        /// Waits for the next order.
        package func receive() throws -> Order {
            while true {
                guard let message = try CallMessage.awaitOrder(over: channel) else {
                    sleep(Self.killedWithin)
                    return .close
                }
                if let order = order(in: message) { return order }
            }
        }

        /// The next order, if one is there; none after `close`.
        package func receiveNow() -> Order? {
            while !isClosed {
                do throws(ForkingError) {
                    guard let message = try CallMessage.receiveOrder(over: channel) else { return nil }
                    guard let order = order(in: message) else { continue }
                    if case .close = order { isClosed = true }
                    return order
                } catch {
                    sleep(Self.killedWithin)
                    isClosed = true
                    return .close
                }
            }
            return nil
        }

        private func order(in message: CallMessage) -> Order? {
            switch message.kind {
            case .call:
                let descriptors = message.descriptors.map(FileDescriptor.init(rawValue:))
                return .call(
                    Call(
                        id: message.head.call, request: Request(message.bytes, descriptors: descriptors),
                        expecting: message.head.descriptors))
            case .cancel: return .cancel(message.head.call)
            case .close: return .close
            default: return nil
            }
        }

        /// Replies to a call, once. Blocks while the host does not receive.
        package func reply(to call: Call, _ result: Result<Reply, any Error>) throws {
            var message: CallMessage
            switch result {
            case .success(let reply): message = CallMessage(reply, expecting: call.expecting)
            case .failure(let error): message = CallMessage(threw: error)
            }
            defer { message.descriptors.forEach(forkcore_close) }  // this process lives on
            message.head.call = call.id
            do {
                try post(message)
            } catch {
                // Too many descriptors, or no memory for the reply.
                var failure = CallMessage(threw: error)
                failure.head.call = call.id
                try post(failure)
            }
        }

        /// The child's output is written before the host has the reply and may kill the child.
        private func post(_ message: CallMessage) throws {
            fflush(nil)
            try message.post(over: channel)
        }
    }
}

extension Zygote.Handlers {
    /// Registers an isolate: a child that lives on and answers many calls, one after the other.
    ///
    /// ```swift
    /// handlers.isolate("counter") { arguments in
    ///     var count = 0
    ///     return { request in
    ///         count += 1
    ///         return Zygote.Reply(Array("\(count)".utf8))
    ///     }
    /// }
    /// ```
    ///
    /// Both closures run in the child. What the first one makes of the arguments is the isolate's state. Descriptors of
    /// a request stay open until the handler closes them.
    ///
    /// - Parameters:
    ///   - name: has 1 to 64 bytes and must be unique.
    ///   - make: is called once, with what the host passed to `isolate`, and returns what answers calls. If it throws,
    ///     so does `isolate`. If the handler that it returns throws, only that call fails.
    public mutating func isolate(
        _ name: String, _ make: @escaping (Zygote.Request) throws -> (Zygote.Request) throws -> Zygote.Reply
    ) {
        add(
            name,
            .isolate { session in
                let handler = try make(session.arguments)
                try session.tellStarted()
                while case .call(let call) = try session.receive() {
                    try session.reply(to: call, Result { try handler(call.request) })
                }
            }, isolate: IsolateManner())
    }

    /// Registers an isolate that serves several calls at once.
    ///
    /// - Parameter serve: receives and replies until it receives `close`.
    package mutating func isolate(
        _ name: String, maxConcurrentCalls: Int, serve: @escaping (Zygote.IsolateSession) throws -> Void
    ) {
        precondition(maxConcurrentCalls > 0, "maxConcurrentCalls must be at least 1")
        add(
            name, .isolate(serve), isolate: IsolateManner(window: maxConcurrentCalls, isCooperative: true))
    }
}

/// How an isolate takes calls.
struct IsolateManner {
    /// The maximum number of calls in flight.
    var window = 1
    /// Whether a call can be cancelled without killing the child.
    var isCooperative = false
}

extension Zygote {
    /// Child: starts a thread that has all signals blocked.
    package static func startThread(_ body: @escaping @Sendable () -> Void) {
        let box = Unmanaged.passRetained(ThreadBody(body))
        let code = Threads.startDetached(box.toOpaque()) {
            Unmanaged<ThreadBody>.fromOpaque($0!).takeRetainedValue().body()
            return nil
        }
        precondition(code == 0, "no thread can be started: \(Errno(rawValue: code))")
    }

    private final class ThreadBody: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
}
