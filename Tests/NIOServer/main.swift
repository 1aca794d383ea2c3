// SPDX-License-Identifier: Apache-2.0

// What ForkingNIOTests start: `nioserver (handlers|tasks|echo) [OPTION NUMBER]…` serves on descriptor 3, which listens
// already. --loops and --workers say how many; with --late a connection's set-up takes so many milliseconds;
// --drain-timeout, --kill, --heartbeat, --head and --idle are the limits of these names, in milliseconds.

import Forking
import ForkingAsync
import ForkingNIO
import Glibc
import NIOCore
import NIOHTTP1
import NIOPosix
import SystemPackage
import TestSupport

func option(_ name: String, default value: Int) -> Int {
    guard let index = CommandLine.arguments.firstIndex(of: name) else { return value }
    return Int(CommandLine.arguments[index + 1])!
}

let kind = CommandLine.arguments[1]
let loops = option("--loops", default: 1)
let late = option("--late", default: 0)
let limits = HTTPLimits(
    head: .milliseconds(option("--head", default: 30_000)), idle: .milliseconds(option("--idle", default: 60_000)))

/// The body of a worker: nothing of it may belong to the main actor, which the first thread keeps waiting.
@Sendable func serve(_ kind: String, _ loops: Int, _ late: Int, _ limits: HTTPLimits, _ worker: Worker) throws {
    let group = MultiThreadedEventLoopGroup(numberOfThreads: loops)
    let delay: @Sendable (any Channel) -> EventLoopFuture<Void> = { channel in
        late == 0
            ? channel.eventLoop.makeSucceededVoidFuture()
            : channel.eventLoop.scheduleTask(in: .milliseconds(Int64(late))) {}.futureResult
    }
    switch kind {
    case "echo":
        try worker.serve(on: group, limits: limits) { channel in
            delay(channel).flatMapThrowing { try channel.pipeline.syncOperations.addHandler(Echo()) }
        }
    case "handlers":
        try worker.serve(on: group, limits: limits) { channel in
            delay(channel).flatMapThrowing {
                try channel.pipeline.syncOperations.configureHTTPServerPipeline()
                try channel.pipeline.syncOperations.addHandler(Answers())
            }
        }
    default:
        try worker.run {
            try await worker.serve(on: group, limits: limits) { channel in
                delay(channel).flatMapThrowing {
                    try channel.pipeline.syncOperations.configureHTTPServerPipeline(
                        withPipeliningAssistance: false, withErrorHandling: false)
                    return try NIOAsyncChannel<HTTPServerRequestPart, HTTPServerResponsePart>(
                        wrappingChannelSynchronously: channel, configuration: .init(isOutboundHalfClosureEnabled: true))
                }
            } handle: { connection in
                try? await connection.executeThenClose { requests, answers in
                    for try await case .head(let head) in requests { try await answer(head, answers) }
                }
            }
        }
    }
}

final class Echo: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) { context.writeAndFlush(data, promise: nil) }
}

final class Answers: ChannelInboundHandler {
    typealias InboundIn = HTTPServerRequestPart
    typealias OutboundOut = HTTPServerResponsePart

    private var path = ""

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        switch unwrapInboundIn(data) {
        case .head(let head): path = head.uri
        case .body: break
        case .end:
            let body = text(for: path)
            let bound = NIOLoopBound((self, context), eventLoop: context.eventLoop)
            context.eventLoop.scheduleTask(in: .milliseconds(pause(for: path))) {
                let (answers, context) = bound.value
                context.write(answers.wrapOutboundOut(.head(responseHead(body))), promise: nil)
                context.write(answers.wrapOutboundOut(.body(.byteBuffer(body))), promise: nil)
                context.writeAndFlush(answers.wrapOutboundOut(.end(nil)), promise: nil)
            }
        }
    }
}

func answer(_ head: HTTPRequestHead, _ answers: NIOAsyncChannelOutboundWriter<HTTPServerResponsePart>) async throws {
    let body = text(for: head.uri)
    try await Task.sleep(for: .milliseconds(pause(for: head.uri)))
    try await answers.write(contentsOf: [.head(responseHead(body)), .body(.byteBuffer(body)), .end(nil)])
}

func pause(for path: String) -> Int64 { ["/slow": 100, "/later": 2000][path] ?? 0 }

func text(for path: String) -> ByteBuffer {
    if path == "/trap" { fatalError("on purpose") }
    while path == "/spin" { getpid() }
    if path == "/outlive-parent", !outliveParent() { fatalError("not root") }
    if path == "/long" { return ByteBuffer(repeating: 120, count: 600_000) }
    return ByteBuffer(string: "\(getpid())")
}

func responseHead(_ body: ByteBuffer) -> HTTPResponseHead {
    HTTPResponseHead(version: .http1_1, status: .ok, headers: ["Content-Length": "\(body.readableBytes)"])
}

var configuration = PreforkServer.Configuration()
configuration.workers = option("--workers", default: 2)
configuration.drainTimeout = .milliseconds(option("--drain-timeout", default: 1000))
configuration.child.killTimeout = .milliseconds(option("--kill", default: 3000))
let heartbeat = option("--heartbeat", default: 0)
if heartbeat > 0 { configuration.heartbeatTimeout = .milliseconds(heartbeat) }
let server = try PreforkServer(workers: Listener(adopting: FileDescriptor(rawValue: 3)), configuration: configuration) {
    [kind, loops, late, limits] worker in
    try serve(kind, loops, late, limits, worker)
}
try server.serve()
