// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import SystemPackage
import TestSupport

// What a child of a server of datagrams can do to the others.

let datagramScenarios = Group(
    "datagram",
    Scenario(
        "datagram-child-breaks-sockets", "a child that breaks every socket it has breaks nobody else's service",
        childBreaksSockets),
    Scenario(
        "datagram-child-memory", "what one client sent is not in the memory of the next one's child", childsMemory),
    Scenario(
        "datagram-replies-while-collecting", "answers go out while a loop of one's own collects", repliesWhileCollecting
    ),
    Scenario("datagram-drain", "a child that is at work as the server stops gets its answer out", repliesWhileDraining)
)

private func datagramServer(
    _ address: String, _ handler: @escaping (Datagram) throws -> Void
) throws -> ForkingServer {
    try ForkingServer(datagrams: Listener(SocketAddress(parsing: address), datagram: true), handler: handler)
}

/// Whatever it does to the descriptors that it has: the next client is served.
private func childBreaksSockets() throws {
    let directory = try TemporaryDirectory()
    for address in ["127.0.0.1:0", "unix:\(directory.path)/s"] {
        // The clients are in this process, too.
        var clients: Set<Int> = []
        let inherited = Set(openDescriptors())
        let client: DatagramClient
        do {
            let server = try datagramServer(address) { datagram in
                if datagram.bytes == Array("break".utf8) {
                    let sender = try SocketAddress(parsing: "\(datagram.peer)")
                    for descriptor in openDescriptors()
                    where !inherited.contains(descriptor) && !clients.contains(descriptor) {
                        _ = try withAddress("\(sender)") { connect(Int32(descriptor), $1, $2) }
                        shutdown(Int32(descriptor), Int32(SHUT_RDWR))
                    }
                    return
                }
                try datagram.reply(datagram.bytes)
            }
            let isUnix = address.hasPrefix("unix:")
            let breaker = try DatagramClient("\(server.address)", boundTo: isUnix ? directory.path + "/b" : nil)
            client = try DatagramClient("\(server.address)", boundTo: isUnix ? directory.path + "/c" : nil)
            clients = [Int(breaker.descriptor), Int(client.descriptor)]
            try breaker.send("break")
            var isSent = false
            server.hooks.onEvent = { server, event in
                guard case .ended = event else { return }
                if isSent { server.stop() } else { try? client.send("honest") }
                isSent = true
            }
            try server.serve()
        }
        try expect(try client.receive() == "honest", "the next client was not served on \(address)")
    }
}

/// The next client's child finds nothing of what the last one sent.
private func childsMemory() throws {
    // As it is nowhere but in a datagram.
    let hidden = Array("UPQ.TFDSFU.qbttxpse>4-2859".utf8)
    let server = try datagramServer("127.0.0.1:0") { datagram in
        guard datagram.bytes == Array("search".utf8) else { return try datagram.reply([]) }
        try datagram.reply(Array((try isInMemory(hidden) ? "found" : "nothing").utf8))
    }
    var ended = 0
    let client = try DatagramClient("\(server.address)")
    server.hooks.onEvent = { server, event in
        guard case .ended = event else { return }
        ended += 1
        if ended == 20 { try? client.send("search") }
        if ended == 21 { server.stop() }
    }
    var secret = [UInt8](repeating: 32, count: 100 + hidden.count)  // not where the next one's stands
    for (index, byte) in hidden.enumerated() { secret[100 + index] = byte - 1 }
    for _ in 0..<20 { _ = secret.withUnsafeBytes { send(client.descriptor, $0.baseAddress, $0.count, 0) } }
    // This process is the client, too: its copy is to be none that a child can find.
    secret.withUnsafeMutableBytes { explicit_bzero($0.baseAddress!, $0.count) }
    try server.serve()
    var answers: [String] = []
    for _ in 0..<21 { answers.append(try client.receive()) }
    try expect(answers.last == "nothing", "\(answers)")
}

private func isInMemory(_ hidden: [UInt8]) throws -> Bool {
    let memory = try FileDescriptor.open("/proc/self/mem", .readOnly)
    defer { try? memory.close() }
    for line in contents(of: "/proc/self/maps")!.split(separator: "\n") where line.contains(" rw") {
        let ends = line.prefix { $0 != " " }.split(separator: "-").map { UInt64($0, radix: 16)! }
        var piece = [UInt8](repeating: 0, count: Int(ends[1] - ends[0]))
        guard
            let count = try? piece.withUnsafeMutableBytes({
                try memory.read(fromAbsoluteOffset: Int64(ends[0]), into: $0)
            })
        else { continue }
        var start = 0
        while start + hidden.count <= count {
            var same = 0
            while same < hidden.count, piece[start + same] == hidden[same] &- 1 { same += 1 }
            if same == hidden.count { return true }
            start += 1
        }
    }
    return false
}

/// A loop of one's own that polls the table and collects does for answers, too.
private func repliesWhileCollecting() throws {
    let server = try datagramServer("127.0.0.1:0") { try $0.reply($0.bytes) }
    let client = try DatagramClient("\(server.address)")
    for text in ["one", "two"] {
        try client.send(text)
        try expect(server.serveOne(), "nothing was taken")
        if text == "one" {
            _ = try server.children.wait()
        } else {
            while server.children.count > 0 {
                var polled = pollfd(fd: server.children.descriptor.rawValue, events: Int16(POLLIN), revents: 0)
                try expect(poll(&polled, 1, 60_000) == 1, "nothing came")
                server.children.collect()
            }
        }
        try expect(try client.receive() == text, "\(text) was not answered")
    }
    try server.close()
}

/// A child that is still at work when the server stops gets its answer out.
private func repliesWhileDraining() throws {
    let gate = try pipe()
    let server = try datagramServer("127.0.0.1:0") { datagram in
        var byte: UInt8 = 0
        close(gate.write)
        _ = read(gate.read, &byte, 1)
        try datagram.reply(datagram.bytes)
    }
    server.hooks.onEvent = { server, event in
        if case .forked = event { server.stop() }
        if case .stopping(.drain) = event { close(gate.write) }
    }
    let client = try DatagramClient("\(server.address)")
    try client.send("late")
    try server.serve()
    close(gate.read)
    try expect(try client.receive() == "late", "it was not answered")
}
