// SPDX-License-Identifier: Apache-2.0

import NIOCore

/// How long a worker waits for a client of HTTP/1 that has no request under way. Such a connection is closed without an
/// answer.
public struct HTTPLimits: Sendable {
    /// For a request's head, from its first byte on, however often another byte comes. Nil: as long as it likes.
    public var head: Duration? = .seconds(30)
    /// For the first byte of a request, of a connection that is new or was answered. Nil: as long as it likes.
    public var idle: Duration?

    /// The defaults, as said at each property.
    public init(head: Duration? = .seconds(30), idle: Duration? = nil) { (self.head, self.idle) = (head, idle) }
}

/// Right before HTTP/1's decoder, which tells of a head only when it is whole: closes the connection when its limit is
/// over. What is not waited for is another's to bound, such as `PreforkServer.Configuration.requestTimeout`.
final class HTTPClock: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer

    enum Wait { case request, restOfHead, nothing }

    private let limits: HTTPLimits
    private var waitsFor = Wait.nothing
    private var deadline: NIODeadline?
    private var timer: (task: Scheduled<Void>, at: NIODeadline)?
    private var channel: (any Channel)?
    /// Whether the bytes that are being read have ended a head, or belonged to a body.
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

    /// From behind the decoder: a part of a request has come, or an answer has gone; this is waited for now.
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
        // A timer that comes too early is set anew then: few of them are ever needed.
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
