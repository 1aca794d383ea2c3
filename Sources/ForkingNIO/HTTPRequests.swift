// SPDX-License-Identifier: Apache-2.0
//
// Worker, on the connection's event loop.

import Forking
import NIOCore
import NIOHTTP1

/// Stands directly behind the HTTP/1 decoder. Counts requests, and closes the connection after the last response: the
/// one to a request that asks for it or, while the worker drains, the next one.
final class HTTPRequests: ChannelDuplexHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias InboundOut = HTTPServerRequestPart
    typealias OutboundIn = HTTPServerResponsePart
    typealias OutboundOut = HTTPServerResponsePart

    private enum Stage {
        case serving
        /// The response being sent says that it is the last.
        case lastAnswer
        /// The last response was sent, or the client wants no more: further input is discarded.
        case closing
        /// Another protocol uses the connection.
        case upgraded
    }

    private let worker: Worker
    private let clock: HTTPClock
    private let peer: Forking.SocketAddress?
    private var stage = Stage.serving
    /// Requests whose responses have not been sent. More than one if the client pipelines requests.
    private var unanswered = CircularBuffer<Worker.RequestID>()
    private var isReceiving = false
    /// Whether the last response was written.
    private var isSent = false
    private var wantsClose = false
    private var wantsTunnel = false
    private var linger: Scheduled<Void>?

    init(_ worker: Worker, _ clock: HTTPClock, from peer: Forking.SocketAddress?) {
        self.worker = worker
        self.clock = clock
        self.peer = peer
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        clock.note(.nothing)
        guard stage != .upgraded else { return context.fireChannelRead(data) }
        guard stage != .closing else { return }
        switch unwrapInboundIn(data) {
        case .head(let head):
            isReceiving = true
            wantsClose = !head.isKeepAlive
            wantsTunnel = head.method == .CONNECT
            unanswered.append(worker.beginRequest(from: peer))
        case .body: break
        case .end: isReceiving = false
        }
        context.fireChannelRead(data)
        awaitRequest()
        closeIfDone(context)
    }

    /// Starts the idle timeout if no request is in progress.
    private func awaitRequest() {
        if stage == .serving, !isReceiving, unanswered.isEmpty { clock.note(.request) }
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard stage != .upgraded else { return context.write(data, promise: promise) }
        switch unwrapOutboundIn(data) {
        case .head(let head):
            context.write(wrapOutboundOut(.head(answering(head))), promise: promise)
        case .body:
            context.write(data, promise: promise)
        case .end:
            hasAnswered()
            awaitRequest()
            guard stage == .lastAnswer, unanswered.isEmpty else { return context.write(data, promise: promise) }
            let sent = promise ?? context.eventLoop.makePromise()
            let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
            sent.futureResult.whenComplete { _ in
                let (requests, context) = bound.value
                requests.isSent = true
                requests.closeIfDone(context)
            }
            context.write(data, promise: sent)
        }
    }

    private func answering(_ head: HTTPResponseHead) -> HTTPResponseHead {
        if head.status == .switchingProtocols || (wantsTunnel && (200..<300).contains(head.status.code)) {
            stage = .upgraded
        }
        guard stage == .serving, head.status.code >= 200 else { return head }
        // Pipelined requests get their responses too.
        let isLast = unanswered.count <= 1 && (wantsClose || worker.isDraining)
        guard isLast || !head.isKeepAlive else { return head }
        stage = .lastAnswer
        var head = head
        head.headers.replaceOrAdd(name: "Connection", value: "close")
        return head
    }

    private func hasAnswered() {
        guard let request = unanswered.popFirst() else { return }  // a response without a request
        worker.endRequest(request)
    }

    /// Closes the sending side, and the connection when the client has closed too, or after two seconds. Closing both
    /// sides at once would reset the connection if unread data is left, and lose the end of the response.
    private func closeIfDone(_ context: ChannelHandlerContext) {
        guard stage == .lastAnswer, isSent, !isReceiving else { return }
        stage = .closing
        let channel = context.channel
        context.close(mode: .output, promise: nil)
        linger = channel.eventLoop.scheduleTask(in: .seconds(2)) { channel.close(promise: nil) }
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        linger?.cancel()
        while !unanswered.isEmpty { hasAnswered() }
    }
}
