// SPDX-License-Identifier: Apache-2.0
//
// Worker, on the connection's event loop. `HTTPLimits` itself is a value, for any process.

import NIOCore

/// How long a worker waits for an HTTP/1 client that has no request in progress. Then the connection is closed without
/// a response.
public struct HTTPLimits: Sendable {
    /// The timeout for a request's head, from its first byte, no matter how many bytes follow. Nil: no limit.
    public var head: Duration? = .seconds(30)
    /// The timeout for the first byte of a request, on a new connection or after a response. Nil: no limit.
    public var idle: Duration?

    /// The defaults, as documented at each property.
    public init(head: Duration? = .seconds(30), idle: Duration? = nil) { (self.head, self.idle) = (head, idle) }
}

/// Stands directly before the HTTP/1 decoder, which reports a head only when it is complete. Closes the connection when
/// a timeout has passed. Other waits are limited elsewhere, as by `PreforkServer.Configuration.requestTimeout`.
final class HTTPClock: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    enum Wait { case request, restOfHead, nothing }

    private let limits: HTTPLimits
    private var waitsFor = Wait.nothing
    private var deadline: NIODeadline?
    private var timer: (task: Scheduled<Void>, at: NIODeadline)?
    private var channel: (any Channel)?
    /// Whether the bytes just read completed a head, or belonged to a body.
    private var haveMeaning = false

    init(_ limits: HTTPLimits) { self.limits = limits }

    func handlerAdded(context: ChannelHandlerContext) {
        channel = context.channel
        wait(for: .request)
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        wait(for: .nothing)
        timer?.task.cancel()
        (timer, channel) = (nil, nil)
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        haveMeaning = false
        context.fireChannelRead(data)
        if !haveMeaning { wait(for: .restOfHead) }
    }

    /// Called by the handler behind the decoder, when a part of a request has arrived or a response was sent. `next` is
    /// what the connection waits for now.
    func note(_ next: Wait) {
        haveMeaning = true
        wait(for: next)
    }

    private func wait(for next: Wait) {
        guard next != waitsFor else { return }
        waitsFor = next
        let limit =
            switch next {
            case .request: limits.idle
            case .restOfHead: limits.head
            case .nothing: Duration?.none
            }
        deadline = limit.map { .now() + TimeAmount(min($0, .seconds(1 << 31))) }
        // A timer that fires too early is set again, so that few are ever needed.
        if let deadline, timer.map({ $0.at > deadline }) ?? true { setTimer(deadline) }
    }

    private func setTimer(_ time: NIODeadline) {
        guard let loop = channel?.eventLoop else { return }
        timer?.task.cancel()
        let bound = NIOLoopBound(self, eventLoop: loop)
        timer = (loop.scheduleTask(deadline: time) { bound.value.timerFired() }, time)
    }

    private func timerFired() {
        timer = nil
        guard let deadline else { return }
        if deadline <= .now() { channel?.close(promise: nil) } else { setTimer(deadline) }
    }
}
