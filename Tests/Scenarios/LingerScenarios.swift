// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Forking
import Glibc
import SystemPackage
import TestSupport

/// An answer of which most has not left yet when who gave it is done, to a client that goes on sending.
let lingerScenarios = Group(
    "linger",
    Scenario(
        "whole-answer-of-child", "a child's answer arrives whole, though its client goes on sending", wholeAnswerOfChild
    ),
    Scenario(
        "whole-answer-over-unix",
        "over a Unix socket an answer ends without an error, though much was sent that nobody has read",
        wholeAnswerOverUnix),
    Scenario(
        "whole-answer-of-worker", "a worker's answer arrives whole, though its client goes on sending",
        wholeAnswerOfWorker),
    Scenario(
        "whole-answer-of-zygote", "the answer of a zygote's child arrives whole, though its client goes on sending",
        wholeAnswerOfZygote),
    Scenario(
        "talkative-client-is-left", "a client that sends without end, and reads nothing, is not waited for",
        talkativeClientIsLeft),
    Scenario("silent-client-is-left", "a client that neither reads nor closes is not waited for", silentClientIsLeft)
)

private let answerLength = 600_000

/// Child, worker: writes it into the kernel's buffer at once, and says so.
private func giveAnswer(_ connection: inout Connection, _ done: Int32) throws {
    _ = try connection.readLine()
    var size: Int32 = 2 << 20
    setsockopt(connection.descriptor.rawValue, SOL_SOCKET, SO_SNDBUF, &size, 4)
    try connection.write([UInt8](repeating: 120, count: answerLength))
    forkcore_event_add(done, 1)
}

/// The client's side: says a word more after each piece that it reads. Returns how many bytes came before the end,
/// which must be one.
private func readTalking(_ client: Client, after done: Int32) throws -> Int {
    var (count, word) = (0, UInt8(10))
    var piece = [UInt8](repeating: 0, count: 16_384)
    try client.send("begin\n")
    try expect(isReadable(done, within: 30), "no answer was given")
    while true {
        usleep(5000)  // it is some way off
        send(client.descriptor, &word, 1, Int32(MSG_NOSIGNAL))
        let got = recv(client.descriptor, &piece, piece.count, 0)
        try expect(got >= 0, "after \(count) bytes: \(String(cString: strerror(errno)))")
        if got == 0 { return count }
        count += got
    }
}

private func event() throws -> Int32 {
    var descriptor: Int32 = -1
    try expect(forkcore_event_open(&descriptor) == 0, "eventfd")
    return descriptor
}

private func wholeAnswerOfChild() throws {
    let done = try event()
    defer { close(done) }
    let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    let server = try ForkingServer(listener) { try giveAnswer(&$0, done) }
    for _ in 0..<3 {
        let client = try server.client()
        try expect(server.serveOne(), "no client was taken")
        let count = try readTalking(client, after: done)
        try expect(count == answerLength, "\(count) bytes of \(answerLength) came")
        _ = forkcore_event_take(done)
    }
    try server.close()
}

/// What a Unix socket's client has said, and nobody has read, is no error behind the answer.
private func wholeAnswerOverUnix() throws {
    let listener = try Listener(SocketAddress(unix: "@forking-whole-\(getpid())"))
    let server = try ForkingServer(listener) { connection in
        _ = try connection.readLine()
        try connection.write("answer\n")
    }
    let client = try server.client()
    try client.send("begin\n")
    try client.send(String(repeating: "\n", count: 5000))
    try expect(server.serveOne(), "no client was taken")
    try expect(try server.children.wait(atMost: .seconds(60)), "its child lives")
    try expect(try client.receive() == "answer\n", "another answer")
    var byte: UInt8 = 0
    try expect(recv(client.descriptor, &byte, 1, 0) == 0, "behind it: \(String(cString: strerror(errno)))")
    try server.close()
}

/// The client is a process of its own, as the parent serves.
private func wholeAnswerOfWorker() throws {
    let done = try event()
    defer { close(done) }
    var configuration = PreforkServer.Configuration()
    configuration.workers = 1
    let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    let address = "\(listener.address)"
    let server = try PreforkServer(listener, configuration: configuration) { connection, _ in
        try giveAnswer(&connection, done)
    }
    let client = fork()
    if client == 0 {
        do {
            for _ in 0..<3 {
                let count = try readTalking(Client(address), after: done)
                try expect(count == answerLength, "\(count) bytes of \(answerLength) came")
                _ = forkcore_event_take(done)
            }
            kill(getppid(), SIGTERM)
            _exit(0)
        } catch {
            fputs("client: \(error)\n", stderrStream())
            kill(getppid(), SIGTERM)
            _exit(1)
        }
    }
    try server.serve()
    var status: Int32 = 0
    try expect(waitpid(client, &status, 0) == client && status == 0, "the client ended with \(status)")
}

private func wholeAnswerOfZygote() throws {
    let done = try event()
    defer { close(done) }
    let zygote = try startZygote { handlers in
        handlers.serve("answer") { connection, _ in try giveAnswer(&connection, done) }
    }
    let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    for _ in 0..<3 {
        let client = try Client("\(listener.address)")
        guard let connection = try listener.accept() else { throw Failure("nobody came") }
        let call = try zygote.handOff("answer", connection)
        let count = try readTalking(client, after: done)
        try expect(count == answerLength, "\(count) bytes of \(answerLength) came")
        _ = try call.wait()
        _ = forkcore_event_take(done)
    }
    try zygote.finish()
}

/// Who sends on and on, and reads nothing, is not listened to for long.
private func talkativeClientIsLeft() throws {
    try expectLeft { client in
        let much = [UInt8](repeating: 10, count: 65_536)
        _ = fcntl(client.descriptor, F_SETFL, O_NONBLOCK)
        _ = send(client.descriptor, much, much.count, Int32(MSG_NOSIGNAL))
    }
}

/// Nor is who neither reads nor closes waited for.
private func silentClientIsLeft() throws { try expectLeft { _ in } }

private func expectLeft(_ body: (Client) -> Void) throws {
    let done = try event()
    defer { close(done) }
    let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    let server = try ForkingServer(listener) { try giveAnswer(&$0, done) }
    let client = try server.client()
    try client.send("begin\n")
    try expect(server.serveOne(), "no client was taken")
    try eventually(within: 60, "its child still listens") {
        body(client)
        server.children.collect()
        return server.children.count == 0
    }
    try server.close()
}
