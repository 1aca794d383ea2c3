// SPDX-License-Identifier: Apache-2.0
//
// Calls of a zygote: what they take and give, what becomes of them, and connections that are handed off.

import CForkCore
import Forking
import Glibc
import SystemPackage
import TestSupport

let zygoteCallScenarios = Group(
    "zygote-call",
    Scenario("zygote-payloads", "0 bytes to 1 MB come back", payloads),
    Scenario("zygote-large-payload", "256 MiB come back", largePayload),
    Scenario("zygote-long-reply", "a reply in a file that is longer than it may be is refused") {
        try longReply(40_000)
    },
    Scenario("zygote-long-reply-inline", "a reply in a message that is longer than it may be is refused") {
        try longReply(10)
    },
    Scenario("zygote-descriptors", "descriptors are passed on and back", descriptors),
    Scenario(
        "zygote-many-descriptors", "252 descriptors are passed on, 253 are refused", descriptors: 1024, manyDescriptors),
    Scenario("zygote-failures", "each failure is told as what it was", failures),
    Scenario("zygote-dropped", "a call that is dropped has its child killed", dropped),
    Scenario("zygote-hand-off", "a connection is served to its end", handOff),
    Scenario("zygote-hand-off-failures", "how a connection ended otherwise is told", handOffFailures),
    Scenario(
        "zygote-hand-off-reset", "the connection of a client which has gone is handed off, with what it sent",
        handOffReset),
    Scenario("zygote-cut-answer", "an answer that is cut off is told by its child's end", cutAnswer),
    Scenario("zygote-printed", "what a child printed is out before its answer", printed)
)

private func payloads() throws {
    let zygote = try startZygote()
    for count in [0, 1, 32_767, 32_768, 32_769, 1 << 20] {
        let bytes = (0..<count).map { UInt8(truncatingIfNeeded: $0 &* 31) }
        let reply = try zygote.runAndWait("echo", bytes)
        try expect(reply.bytes == bytes, "\(count) bytes did not come back")
        try expect(reply.takeDescriptors().isEmpty, "a descriptor came")
    }
    try zygote.finish()
}

private func largePayload() throws {
    let zygote = try startZygote()
    var bytes = [UInt8](repeating: 7, count: 256 << 20)
    for place in stride(from: 0, to: bytes.count, by: 4093) { bytes[place] = UInt8(truncatingIfNeeded: place) }
    let reply = try zygote.runAndWait("echo", bytes)
    try expect(reply.bytes.count == bytes.count, "\(reply.bytes.count) bytes came back")
    try expect(memcmp(reply.bytes, bytes, bytes.count) == 0, "other bytes came back")
    try zygote.finish()
}

/// What is longer than 32,768 bytes goes through a file, what is not goes through the socket.
private func longReply(_ limit: Int) throws {
    let zygote = try startZygote(maxReplyBytes: limit)
    let most = [UInt8](repeating: 1, count: limit)
    try expect(try zygote.runAndWait("echo", most).bytes == most, "\(limit) bytes were refused")
    guard case .invalid(let text) = try failure({ _ = try zygote.runAndWait("echo", most + [1]) }).detail else {
        throw Failure("another error")
    }
    try expect(text.contains("\(limit + 1)") && text.contains("\(limit)"), text)
    try zygote.finish()
}

private func descriptors() throws {
    let zygote = try startZygote()
    for count in [3, 1 << 20] {
        let channel = try Channel()
        let file = memoryFile(0)
        write(file, "hello", 5)
        let bytes = [UInt8](repeating: 9, count: count)
        let reply = try zygote.runAndWait(
            "echo", bytes, descriptors: [channel.ends.write, file].map(FileDescriptor.init(rawValue:)), expecting: 2)
        let came = reply.takeDescriptors()
        try expect(reply.bytes == bytes && came.count == 2, "\(came)")
        try expect(reply.takeDescriptors().isEmpty, "they are given twice")
        channel.closeWrite()
        try expect(fcntl(came[0].rawValue, F_GETFD) == FD_CLOEXEC, "a program would have it")
        _ = try came[0].writeAll([42])
        try expect(try channel.hear() == 42, "another pipe came back")
        var text = [UInt8](repeating: 0, count: 5)
        pread(came[1].rawValue, &text, 5, 0)
        try expect(text == Array("hello".utf8), "another file came back")
        for descriptor in came { try descriptor.close() }
        try expect(try channel.hear() == nil, "somebody keeps the pipe")
        channel.closeRead()
        Glibc.close(file)
    }
    try zygote.finish()
}

private func manyDescriptors() throws {
    let zygote = try startZygote { handlers in
        handlers.answer("give") { request in
            Zygote.Reply(descriptors: Array(repeating: FileDescriptor(rawValue: 2), count: Int(request.bytes[0])))
        }
    }
    let most = Array(repeating: FileDescriptor(rawValue: 2), count: 252)
    for count in [1, 1 << 20] {
        let reply = try zygote.runAndWait(
            "echo", [UInt8](repeating: 1, count: count), descriptors: most, expecting: 252)
        let came = reply.takeDescriptors()
        try expect(came.count == 252, "\(came.count) came back")
        for descriptor in came { try descriptor.close() }
    }
    let text = "253 descriptors are too many: a call takes 252"
    let refused = try failure { _ = try zygote.runAndWait("echo", descriptors: most + most.prefix(1)) }
    try expect(refused == .invalid(text), "\(refused)")
    let given = try failure { _ = try zygote.runAndWait("give", [253], expecting: 252) }
    try expect(given == .invalid("the child sent 253 descriptors, and 252 were expected"), "\(given)")
    try zygote.expectEcho()
    try zygote.finish()
}

private func failures() throws {
    let zygote = try startZygote(maxChildren: 1, maxWaiting: 1)
    let pid = zygote.pid
    try zygote.expectFailure(.ended(.signaled(.illegalInstruction, dumpedCore: false)), from: "trap")
    try zygote.expectFailure(.threw(type: "Failure", description: "as asked"), from: "throw")
    try zygote.expectFailure(.ended(.exited(code: 7)), from: "exit", [7])
    try zygote.expectFailure(.ended(.exited(code: 0)), from: "exit", [0])
    try zygote.expectFailure(.deadlineExceeded(.milliseconds(50)), from: "hang", deadline: .milliseconds(50))
    try zygote.expectFailure(.noHandler("nothing", known: zygote.handlerNames), from: "nothing")
    for deadline in [Duration.zero, .seconds(-1)] {
        guard try failure({ _ = try zygote.begin("echo", deadline: deadline) }).code == .invalid else {
            throw Failure("a deadline of \(deadline) was taken")
        }
    }

    let (killed, child) = try zygote.begun()
    kill(child, SIGKILL)
    try expect(signal(in: failure(of: killed)) == .kill, "not killed")
    let (running, other) = try zygote.begun()
    let waiting = try zygote.begin("echo")
    try zygote.expectFailure(.full(children: 1, waiting: 1), from: "echo")
    waiting.cancel()
    try expect(failure(of: waiting) == .cancelled, "the one that waited")
    running.cancel()
    running.cancel()
    try expect(failure(of: running) == .cancelled, "the one that ran")
    try expectGone([other])

    // An answer that was given before is an answer.
    let answered = try zygote.begin("echo", [5])
    try expect(isReadable(answered.descriptor.rawValue, within: 20), "no answer")
    answered.cancel()
    try expect(answered.wait().bytes == [5], "the answer was thrown away")
    try expect(zygote.pid == pid, "it was replaced")
    try zygote.finish()
    try zygote.expectFailure(.shutDown, from: "echo")
    try expect(zygote.pid == nil && zygote.descriptor == nil, "there is one")
}

/// Nobody takes the answer of such a call.
private func dropped() throws {
    let zygote = try startZygote(maxChildren: 1, maxWaiting: 0)
    for _ in 0..<3 {
        let child = try zygote.begun().child
        try zygote.expectEcho()  // there is but one place
        try expectGone([child], within: warmByDefault == 0 ? 0 : 60)  // a warm child needs no place
    }
    try expect(zygote.status.running == 0, "\(zygote.status)")
    try zygote.finish()
}

// MARK: Connections

/// A connection of a client's, accepted at `address`.
func connect(to address: String) throws -> (Client, descriptor: Int32) {
    let listener = try Listener(SocketAddress(parsing: address))
    let client = try Client("\(listener.address)")
    try expect(isReadable(listener.descriptor.rawValue, within: 20), "no client")
    return (client, accept(listener.descriptor.rawValue, nil, nil))
}

extension Zygote {
    func handOff(
        _ name: String, _ descriptor: Int32, _ bytes: [UInt8] = [],
        peer: SocketAddress = try! SocketAddress(unix: "@none")
    ) throws -> Call {
        let connection = Connection(FileDescriptor(rawValue: descriptor), peer: peer)
        return try handOff(name, connection, bytes)
    }
}

private func addServices(_ handlers: inout Zygote.Handlers) {
    handlers.serve("lines") { connection, request in
        try connection.write(request.bytes)
        while let line = try connection.readLine() { try connection.write(line) }
    }
    handlers.serve("pour") { connection, _ in try connection.write([UInt8](repeating: 65, count: 1 << 20)) }
    handlers.serve("peer") { connection, _ in
        try connection.write(connection.peer.ip ?? (connection.peer.isUnix ? "unix" : "nobody"))
    }
    handlers.serve("throw-there") { connection, _ in
        try connection.write("before")
        throw Failure("as asked")
    }
    handlers.serve("trap-there") { connection, request in
        try connection.write("before")
        _ = request.bytes[request.bytes.count]
    }
    handlers.serve("stay") { connection, _ in
        try connection.write("here")
        while true { pause() }
    }
}

private func handOff() throws {
    let zygote = try startZygote(addServices)
    for address in ["127.0.0.1:0", "[::1]:0", "unix:@forking-\(getpid())"] {
        let (client, descriptor) = try connect(to: address)
        let call = try zygote.handOff("lines", descriptor, Array("hello\n".utf8))
        try expect(client.receive() == "hello\n", "the call's bytes did not come")
        try client.echo("one")
        try expect(try call.poll() == nil, "done before its end")
        try client.send("rest")
        client.finishSending()
        try expect(client.receiveAll() == "rest", "the rest is missing")
        let reply = try call.wait()
        try expect(reply.bytes.isEmpty && reply.takeDescriptors().isEmpty, "\(reply)")

        let (other, second) = try connect(to: address)
        try other.send("this is never read")  // and comes before the end: after it, the answer could not be saved
        let poured = try zygote.handOff("pour", second)
        try expect(other.receiveAll() == String(repeating: "A", count: 1 << 20), "not all came")
        _ = try poured.wait()

        let (third, its) = try connect(to: address)
        _ = try zygote.handOff("peer", its, peer: SocketAddress(parsing: address)).wait()
        let peer = try third.receiveAll()
        try expect(address.contains(peer) && !peer.isEmpty, "\(address): \(peer)")
    }
    try zygote.finish()
}

private func handOffFailures() throws {
    let zygote = try startZygote(maxChildren: 1, maxWaiting: 1, addServices)
    let address = "127.0.0.1:0"
    let (one, first) = try connect(to: address)
    try expect(
        failure(of: try zygote.handOff("throw-there", first)) == .threw(type: "Failure", description: "as asked"),
        "another error")
    try expect(one.receiveAll() == "before", "what was written is lost")
    let (two, second) = try connect(to: address)
    try expect(signal(in: failure(of: try zygote.handOff("trap-there", second))) == .illegalInstruction, "no trap")
    try expect(two.receiveAll() == "before", "what was written is lost")

    let (three, third) = try connect(to: address)
    let staying = try zygote.handOff("stay", third)
    try expect(three.receive() == "here", "not served")
    let (four, fourth) = try connect(to: address)
    let waiting = try zygote.handOff("lines", fourth)
    let (five, fifth) = try connect(to: address)
    try expect(failure { _ = try zygote.handOff("lines", fifth) } == .full(children: 1, waiting: 1), "taken")
    try expect(five.receiveAll() == "", "the refused one's connection is open")
    waiting.cancel()
    try expect(failure(of: waiting) == .cancelled && four.receiveAll() == "", "the cancelled one's connection is open")
    staying.cancel()
    try expect(failure(of: staying) == .cancelled && three.receiveAll() == "", "the killed one's connection is open")
    try zygote.expectFailure(
        .threw(type: "ForkingError", description: "no connection was handed off"), from: "lines")
    try zygote.finish()
}

/// A client that sent a line and reset: the line is there, and whose it is the host knows.
private func handOffReset() throws {
    let zygote = try startZygote { handlers in
        handlers.serve("hear") { connection, request in
            guard let line = try connection.readLine() else { throw Failure("no line") }
            let peer = "\(connection.peer)"
            do { _ = try connection.readLine() } catch let error as ForkingError where error.errno == .connectionReset {
                throw Failure("\(peer): \(String(decoding: line + request.bytes, as: UTF8.self)), reset")
            }
            throw Failure("no reset")
        }
    }
    let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    var client: Client? = try Client("\(listener.address)")
    try client?.send("line\n")
    var none = linger(l_onoff: 1, l_linger: 0)
    setsockopt(client!.descriptor, SOL_SOCKET, SO_LINGER, &none, socklen_t(MemoryLayout<linger>.size))
    client = nil
    let accepted = accept(listener.descriptor.rawValue, nil, nil)
    let peer = try SocketAddress(parsing: "127.0.0.1:7")
    let told = try failure(of: zygote.handOff("hear", accepted, Array("bytes".utf8), peer: peer))
    guard case .threw("Failure", let text) = told.detail else { throw Failure("\(told)") }
    try expect(text.hasPrefix("127.0.0.1:7: line") && text.hasSuffix("bytes, reset"), text)
    try zygote.finish()
}

/// A child that ends in the midst of a long answer, which leaves no room in its channel: how it ended is told all the
/// same.
private func cutAnswer() throws {
    let zygote = try startZygote { handlers in
        handlers.answer("pour") { request in
            begin(request)
            return Zygote.Reply([UInt8](repeating: 1, count: 8 << 20))
        }
    }
    let (call, child) = try zygote.begun("pour")
    try expect(isReadable(call.descriptor.rawValue, within: 20), "nothing of an answer")
    try eventually("it does not wait for its host") { Process(child)?.state == "S" }
    kill(child, SIGKILL)
    try eventually("it lives") { Process(child) == nil }
    let error = try failure(of: call)
    try expect(error == .ended(.signaled(.kill, dumpedCore: false)), "\(error)")
    // One that is not taken is there as long as it is not, and then whole.
    let later = try zygote.begin("pour")
    try expect(isReadable(later.descriptor.rawValue, within: 20), "nothing of an answer")
    try expect(later.wait().bytes.count == 8 << 20, "it is not whole")
    try zygote.finish()
}

// MARK: stdio

/// Stdout is a pipe here, so that stdio keeps back what it is given.
private func printed() throws {
    let channel = try Channel()
    let out = dup(1)
    dup2(channel.ends.write, 1)
    channel.closeWrite()
    defer {
        dup2(out, 1)
        close(out)
        channel.closeRead()
    }
    let zygote = try startZygote { handlers in
        handlers.answer("print") { request in
            print("printed", terminator: "")
            if request.bytes.isEmpty { throw Failure("as asked") }
            return Zygote.Reply()
        }
    }
    var bytes = [UInt8](repeating: 0, count: 100)
    _ = try zygote.runAndWait("print", [1])
    try expect(isReadable(channel.ends.read, within: 0), "it is not out with the answer")
    try expect(read(channel.ends.read, &bytes, 100) == 7, "another text")
    _ = try failure { _ = try zygote.runAndWait("print") }
    try expect(isReadable(channel.ends.read, within: 0), "it is not out with the error")
    try expect(read(channel.ends.read, &bytes, 100) == 7, "another text")
    try zygote.finish()
    try expect(!isReadable(channel.ends.read, within: 0), "it is out twice")
}
