// A line echo with SwiftNIO's channel handlers, in a pool of worker processes, on one event loop each.
// Try: swift run PreforkNIO 127.0.0.1:7777, and in another terminal: nc 127.0.0.1 7777

import Forking
import ForkingNIO
import Glibc
import NIOCore

final class Echo: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        context.writeAndFlush(data, promise: nil)
    }
}

let address = try SocketAddress(parsing: CommandLine.arguments.dropFirst().first ?? "127.0.0.1:7777")
let server = try PreforkServer(workers: Listener(address)) { worker in
    try worker.serve { channel in
        channel.eventLoop.makeCompletedFuture { try channel.pipeline.syncOperations.addHandler(Echo()) }
    }
}
print("listening on \(server.addresses[0])")
fflush(nil)
try server.serve()
