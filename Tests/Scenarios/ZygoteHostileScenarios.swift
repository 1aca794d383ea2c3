// SPDX-License-Identifier: Apache-2.0
//
// A child that was taken over by what it worked on, and has its channel in hand.

import CForkCore
import Forking
import Glibc
import SystemPackage
import TestSupport

let zygoteHostileScenarios = Group(
    "zygote-hostile",
    Scenario("zygote-hostile-child", "what a hostile child sends is survived", hostileChild),
    Scenario("zygote-hostile-numbers", "numbers that a hostile child makes up are survived", hostileNumbers),
    Scenario(
        "zygote-unexpected-descriptors", "descriptors that nobody expects are closed, or the reply's",
        unexpectedDescriptors),
    Scenario("zygote-lingering-descriptors", "to close what a child sends holds nobody up", lingeringDescriptors),
    Scenario("zygote-held-child", "a child that a tracer of its own holds has ended for its call", heldChild),
    Scenario("zygote-strangers", "processes that a child makes the zygote's are reaped", strangers),
    Scenario("zygote-hostile-group", "a child that has left its group ends with its call") {
        try hostileGroup("leave")
    },
    Scenario(
        "zygote-hostile-group-traced",
        "a child that has left its group, is traced by the zygote, and stops, ends with its call"
    ) { try hostileGroup("leave-traced") }
)

/// What goes over a call's channel, as CallMessage.Head has it.
private struct Forged {
    static let (reply, threw, limitRefused, notForked, ended, part): (UInt8, UInt8, UInt8, UInt8, UInt8, UInt8) =
        (1, 2, 3, 4, 5, 6)

    var bytes: [UInt8]

    init(_ kind: UInt8, isInFile: Bool = false, count: UInt64 = 0, rest: UInt8 = 0) {
        bytes = [UInt8](repeating: rest, count: 200)
        bytes.replaceSubrange(80..<88, with: repeatElement(0, count: 8))  // no descriptors, no peer
        bytes[0] = kind
        bytes[1] = isInFile ? 1 : 0
        withUnsafeBytes(of: count) { bytes.replaceSubrange(8..<16, with: $0) }
    }
}

private func isChannel(_ descriptor: Int32) -> Bool {
    var (type, length): (Int32, socklen_t) = (0, 4)
    return getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == Int32(SOCK_SEQPACKET.rawValue)
}

/// Child: sends something.
private func send(_ bytes: [UInt8], _ text: [UInt8] = [], _ descriptors: [Int32] = []) throws {
    let channel = entries(of: "/proc/self/fd").compactMap(Int32.init).first { isChannel($0) } ?? -1
    var (head, text, descriptors) = (bytes, text, descriptors)
    let code = head.withUnsafeMutableBytes { head in
        text.withUnsafeMutableBytes { text in
            descriptors.withUnsafeMutableBufferPointer {
                var message = forkcore_message(
                    head: head.baseAddress, head_size: head.count, bytes: text.baseAddress, count: text.count,
                    descriptors: $0.baseAddress, descriptor_count: $0.count)
                return forkcore_message_post(channel, &message)
            }
        }
    }
    guard code == 0 else { throw Failure("not sent: \(Errno(rawValue: code))") }
}

/// Child: sends something, and stays.
private func forge(_ bytes: [UInt8], _ text: String = "", _ descriptors: [Int32] = []) throws -> Never {
    try send(bytes, Array(text.utf8), descriptors)
    while true { pause() }
}

/// The call expects two descriptors.
private let attacks: [(name: String, attack: @Sendable () throws -> Never)] = [
    ("garbage", { try forge([1, 2, 3, 4, 5]) }),
    ("nothing", { try forge([]) }),
    ("noise", { try forge([UInt8](repeating: 0xff, count: 20_000)) }),
    ("unknown kind", { try forge(Forged(99).bytes) }),
    ("request", { try forge(Forged(0).bytes) }),
    ("no file", { try forge(Forged(Forged.reply, isInFile: true, count: 5).bytes) }),
    ("file", { try forge(Forged(Forged.reply, isInFile: true, count: 5).bytes, "", [memoryFile(5)]) }),
    ("pipe", { try forge(Forged(Forged.reply).bytes, "", [try Channel().ends.read]) }),
    ("pipes", { try forge(Forged(Forged.reply).bytes, "", Array(repeating: try Channel().ends.read, count: 5)) }),
    ("pipes with garbage", { try forge([1], "", Array(repeating: try Channel().ends.read, count: 5)) }),
    ("pipes with noise", { try forge(Forged(99).bytes, "", Array(repeating: try Channel().ends.read, count: 5)) }),
    (
        "pipes with a part",
        {
            try send(Forged(Forged.part).bytes, [1], Array(repeating: try Channel().ends.read, count: 5))
            try forge(Forged(Forged.reply).bytes)
        }
    ),
    ("a long promise", { try forge(Forged(Forged.part, count: .max).bytes, "some") }),
    (
        "parts without an end",
        {
            let megabyte = [UInt8](repeating: 1, count: 1 << 20)
            while true { try send(Forged(Forged.part).bytes, Array(megabyte.prefix(32_000))) }
        }
    ),
]

private func hostileChild() throws {
    let zygote = try startZygote(maxChildren: 1, maxReplyBytes: 1 << 20) { handlers in
        for (name, attack) in attacks { handlers.answer(name) { _ in try attack() } }
        handlers.answer("forged") { _ in try forge(Forged(Forged.reply).bytes, "like the zygote's own") }
        handlers.answer("in parts") { _ in
            try send(Forged(Forged.part).bytes, Array("in ".utf8))
            try forge(Forged(Forged.reply).bytes, "parts")
        }
        handlers.answer("many descriptors") { _ in
            try forge(Forged(Forged.reply).bytes, "", Array(repeating: 2, count: Int(FORKCORE_DESCRIPTORS)))
        }
    }
    let pid = zygote.pid!
    let before = openDescriptors()
    func expectNoneLeft(_ name: String) throws {
        try eventually("\(name): descriptors are left") { openDescriptors() == before }
    }
    try expect(text(try zygote.runAndWait("forged")) == "like the zygote's own", "this test forges badly")
    try expect(text(try zygote.runAndWait("in parts")) == "in parts", "this test forges badly")
    for (name, _) in attacks {
        let error = try failure { _ = try zygote.runAndWait(name, expecting: 2) }
        guard error.code == .invalid else { throw Failure("\(name): \(error)") }
        try expectNoneLeft(name)
        try zygote.expectEcho()
    }
    // More than this process has room for.
    let many = try failure { _ = try zygote.runAndWait("many descriptors", expecting: 2) }
    try expect(many == .system(call: "recvmsg", .tooManyOpenFiles), "\(many)")
    try expectNoneLeft("many descriptors")
    try zygote.expectEcho()
    try expect(zygote.pid == pid, "it is another zygote")
    try zygote.finish()
}

/// Descriptors that nobody expects are closed here, however many; those that are expected are the reply's, until taken.
private func unexpectedDescriptors() throws {
    let zygote = try startZygote { handlers in
        handlers.answer("give") { request in
            Zygote.Reply(descriptors: (0..<request.bytes[0]).map { _ in FileDescriptor(rawValue: memoryFile(5)) })
        }
        handlers.answer("force") { request in
            try forge(Forged(Forged.reply).bytes, "", (0..<request.bytes[0]).map { _ in memoryFile(5) })
        }
    }
    let before = openDescriptors()
    func expectNoneLeft(line: Int = #line) throws {
        try eventually("line \(line): descriptors are left: \(openDescriptors())") { openDescriptors() == before }
    }
    for (given, expected) in [(3, 0), (1, 0), (0, 2), (1, 2), (3, 2)] as [(UInt8, Int)] {
        let wanted = ForkingError.invalid(
            "the child sent \(given) descriptor\(given == 1 ? "" : "s"), and \(expected) \(expected == 1 ? "was" : "were") "
                + "expected")
        let told = try failure { _ = try zygote.runAndWait("give", [given], expecting: expected) }
        try expect(told == wanted, "\(told), not \(wanted)")
        try expectNoneLeft()
        let forced = try failure { _ = try zygote.runAndWait("force", [given], expecting: expected) }
        // A kernel that sees to it does not even let the child send them.
        if expected == 0, try refusesRights() {
            guard forced.thrown?.description == "not sent: Operation not permitted" else { throw Failure("\(forced)") }
        } else {
            try expect(forced == wanted, "\(forced), not \(wanted)")
        }
        try expectNoneLeft()
    }
    _ = try zygote.runAndWait("give", [3], expecting: 3)  // nobody takes them
    try expectNoneLeft()
    do {
        let call = try zygote.begin("force", [3], expecting: 3)
        try expect(isReadable(call.descriptor.rawValue, within: 20), "no answer")
    }  // nobody takes the answer
    try expectNoneLeft()
    let taken = try zygote.runAndWait("give", [3], expecting: 3).takeDescriptors()
    try expect(taken.count == 3, "\(taken.count) came")
    for descriptor in taken { try descriptor.close() }
    try expectNoneLeft()
    try zygote.finish()
}

/// Whether the kernel lets a socket's owner say that none may attach descriptors.
private func refusesRights() throws -> Bool {
    var ends: (Int32, Int32) = (-1, -1)
    try expect(forkcore_channel_open(&ends.0, &ends.1) == 0, "socketpair")
    defer {
        close(ends.0)
        close(ends.1)
    }
    return forkcore_refuse_rights(ends.0) == 0
}

/// Child: a connection to the listener in this process's first pipe of bytes, full, whose close waits for an hour.
private func lingering(_ port: UInt16) throws -> Int32 {
    let client = try Client("127.0.0.1:\(port)")
    let descriptor = dup(client.descriptor)
    _ = fcntl(descriptor, F_SETFL, O_NONBLOCK)
    let bytes = [UInt8](repeating: 1, count: 1 << 16)
    while write(descriptor, bytes, bytes.count) > 0 {}
    _ = fcntl(descriptor, F_SETFL, 0)
    var hour = linger(l_onoff: 1, l_linger: 3600)
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &hour, socklen_t(MemoryLayout<linger>.size))
    return descriptor
}

/// To close what a child sends takes an hour, for whoever closes it last: that is not the host's thread.
private func lingeringDescriptors() throws {
    let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    let port = listener.address.port!
    let zygote = try startZygote(maxChildren: 2) { handlers in
        handlers.answer("linger") { request in
            let descriptor = try lingering(port)
            try send(Forged(Forged.reply).bytes, [], request.bytes.isEmpty ? [descriptor] : [descriptor, descriptor])
            _exit(0)  // which lingers for nobody
        }
    }
    /// A call whose child has sent what it sends, and gone: the host has the last copy.
    func sent(_ bytes: [UInt8]) throws -> Zygote.Call {
        let call = try zygote.begin("linger", bytes, expecting: 1)
        try expect(isReadable(call.descriptor.rawValue, within: 20), "no answer")
        let pid = zygote.pid!
        try eventually("its child lives") { !processes().contains { Process($0)?.parent == pid } }
        return call
    }
    let begun = now()
    _ = try sent([]).wait()  // it is expected, and nobody takes it
    try expect(
        failure(of: sent([1])) == .invalid("the child sent 2 descriptors, and 1 was expected"), "another error")
    _ = try sent([])  // the answer stays in its channel
    try zygote.finish()
    try expect(now() - begun < 600, "the host waited")
}

/// A child in the zygote's group, also one that has the zygote trace it and stops: its call's end is its own.
private func hostileGroup(_ name: String) throws {
    let zygote = try startZygote { handlers in
        for name in ["leave", "leave-traced"] {
            handlers.answer(name) { request in
                setpgid(0, getpgid(getppid()))
                guard name == "leave-traced" else {
                    begin(request)
                    while true { pause() }
                }
                typealias Trace = @convention(c) (Int, Int32, Int, Int) -> Int
                // It takes any number of arguments, which Swift does not import.
                let trace = unsafeBitCast(dlsym(nil, "ptrace"), to: Trace.self)
                _ = trace(0, 0, 0, 0)  // PTRACE_TRACEME
                begin(request)
                raise(SIGSTOP)
                while true { pause() }
            }
        }
    }
    let pid = zygote.pid!
    let (late, first) = try zygote.begun(name, deadline: .milliseconds(500))
    let error = try failure(of: late)
    let killed = [ForkingError.deadlineExceeded(.milliseconds(500)), .ended(.signaled(.kill, dumpedCore: false))]
    try expect(killed.contains(error), "\(error)")
    try expectGone([first])
    let (unwanted, second) = try zygote.begun(name)
    unwanted.cancel()
    _ = try failure(of: unwanted)
    try expectGone([second])
    try expect(zygote.pid == pid, "it is another zygote")
    try zygote.expectEcho()
    try zygote.finish()
}

/// A child that has ended, while a process that it has started traces it, and has its channel.
private func heldChild() throws {
    let zygote = try startZygote { handlers in
        handlers.answer("be held") { request in
            var tracer = try tracerOfThis()
            _ = write(request.descriptors[0].rawValue, &tracer, 4)
            _exit(3)
        }
    }
    let (call, tracer) = try zygote.begun("be held")
    defer { kill(tracer, SIGKILL) }
    var error: ForkingError?
    try eventually("the call goes on") {
        try zygote.expectEcho()  // as another child ends, the zygote looks
        do { _ = try call.poll() } catch let thrown as ForkingError { error = thrown }
        return error != nil
    }
    try expect(error == .ended(.unknown), "\(error!)")
    kill(tracer, SIGKILL)
    try zygote.expectEcho()
    try zygote.finish()
}

/// Processes that a child makes its zygote's children are not its zombies.
private func strangers() throws {
    let zygote = try startZygote { handlers in
        handlers.answer("make strangers") { _ in
            let made = (0..<20).map { _ in parentsChild() }
            return Zygote.Reply(made.withUnsafeBytes(Array.init))
        }
    }
    let bytes = try zygote.runAndWait("make strangers").bytes
    let made = bytes.withUnsafeBytes { Array($0.bindMemory(to: pid_t.self)) }
    try expect(made.count == 20 && made.allSatisfy { $0 > 0 }, "\(made)")
    try eventually("they are left: \(made)") { made.allSatisfy { Process($0) == nil } }
    try zygote.expectEcho()
    try zygote.finish()
}

/// Numbers and texts that nobody counted or wrote: they are what they are, and nothing is computed from them that
/// cannot be.
private func hostileNumbers() throws {
    let kinds = [Forged.reply, Forged.threw, Forged.limitRefused, Forged.notForked, Forged.ended]
    let events = Told()
    let zygote = try startZygote(told: events) { handlers in
        handlers.answer("numbers") { request in
            var forged = Forged(request.bytes[0], rest: request.bytes[1])
            forged.bytes[1] = 0
            try forge(forged.bytes, request.bytes[2] == 0 ? "" : "\u{0}\u{0}\n\u{1b}[2J")
        }
    }
    for kind in kinds {
        for (rest, texts) in [(0x7f, 0), (0x80, 1), (0xff, 0)] as [(UInt8, UInt8)] {
            do {
                _ = try zygote.runAndWait("numbers", [kind, rest, texts])
                try expect(kind == Forged.reply, "\(kind) was taken for an answer")
            } catch let error as ForkingError {
                try expect(kind != Forged.reply && !"\(error)".isEmpty, "\(kind): \(error)")
            }
            _ = "\(zygote.status)"
        }
    }
    try zygote.expectEcho()
    try zygote.finish()
    try expect(events.all.map(\.description).contains { $0.contains("answered") }, "nothing was told")
}
