// SPDX-License-Identifier: Apache-2.0
//
// What a zygote and its children are, and what a start makes of what it finds.

import CForkCore
import Forking
import Glibc
import Synchronization
import SystemPackage
import TestSupport

let zygoteChildScenarios = Group(
    "zygote-child",
    Scenario("zygote-child", "a child has what is its own", surroundings),
    Scenario("zygote-signals", "signals end children, not the zygote", signals),
    Scenario("zygote-leaves-nothing", "nothing that a child has started outlives it", leavesNothing),
    Scenario("zygote-prewarm", "what is done once is there for each child", prewarm),
    Scenario("zygote-prewarmed-mutex", "a lock that was taken before the first child still works", prewarmedMutex),
    Scenario("zygote-not-ready", "a zygote that does not get ready is told of, and gone", notReady),
    Scenario("zygote-refusals", "what cannot be is refused", refusals),
    Scenario("zygote-variable-text", "a variable that is set to something else is not believed") {
        try variable("x")
    },
    Scenario("zygote-variable-alone", "a variable that names our parent is not believed without a channel") {
        try variable("\(getppid())")
    },
    Scenario("zygote-variable-pipe", "a variable that names our parent is not believed with a pipe in the place") {
        let channel = try Channel()
        defer { channel.close() }
        try expect(channel.ends.read == 3, "the place is taken")
        try variable("\(getppid())")
    },
    Scenario("zygote-variable-parent", "a variable that names another parent is not believed") {
        var ends: [Int32] = [0, 0]  // of the right kind, of another parent
        try expect(socketpair(AF_UNIX, Int32(SOCK_SEQPACKET.rawValue), 0, &ends) == 0 && ends[0] == 3, "taken")
        defer { for end in ends { close(end) } }
        try variable("\(getpid())")
    }
)

private func surroundings() throws {
    let inherited = openDescriptors().count  // from whoever started us
    setBlocked(SIGUSR2, true)  // by whoever started us
    defer { setBlocked(SIGUSR2, false) }
    let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    let zygote = try startZygote { handlers in
        handlers.answer("descriptors") { _ in
            let all = entries(of: "/proc/self/fd").compactMap(Int32.init).filter { fcntl($0, F_GETFD) >= 0 }
            return Zygote.Reply(Array(all.map { "\($0)" }.joined(separator: " ").utf8))
        }
        handlers.answer("process") { _ in
            let own = Process(getpid())!
            try expect(own.group == getpid(), "it has no group of its own")
            try expect(own.session == Process(getppid())!.session, "it has another session")
            try expect(getpid() != getppid() && hasOneThread(), "it has threads")
            return Zygote.Reply(Array(try lines(startingWith: "SigBlk").utf8))
        }
    }
    var others: [Zygote.Call] = []
    for _ in 0..<3 { others.append(try zygote.begun().call) }
    let descriptors = text(try zygote.runAndWait("descriptors")).split(separator: " ")
    try expect(descriptors.count == inherited + 1, "besides its channel: \(descriptors), not \(inherited)")
    let blocked = text(try zygote.runAndWait("process"))
    try expect(blocked == "SigBlk:\t0000000000000000", "blocked \(blocked)")
    others = []
    try expect(fcntl(listener.descriptor.rawValue, F_GETFD) >= 0, "ours was closed")
    try zygote.finish()
}

/// What a child has left running in its group ends with it, though nobody has told that to end.
private func leavesNothing() throws {
    let zygote = try startZygote { handlers in
        handlers.answer("leave") { request in
            var pid: pid_t = 0
            let arguments: [UnsafeMutablePointer<CChar>?] = [strdup("sleep"), strdup("1000"), nil]
            try expect(posix_spawn(&pid, "/bin/sleep", nil, nil, arguments, nil) == 0, "posix_spawn")
            _ = write(request.descriptors[0].rawValue, &pid, 4)
            exit(3)
        }
    }
    let (call, left) = try zygote.begun("leave")
    let end = try failure(of: call)
    try expect(end == .ended(.exited(code: 3)), "\(end)")
    try expectGone([left])
    try zygote.finish()
}

private func hasOneThread() -> Bool { entries(of: "/proc/self/task").count == 1 }

/// Of /proc/self/status.
private func lines(startingWith names: String...) throws -> String {
    guard let text = contents(of: "/proc/self/status") else { throw Failure("no /proc/self/status") }
    return text.split(separator: "\n").filter { line in names.contains { line.hasPrefix($0 + ":") } }
        .joined(separator: "\n")
}

/// A service manager sends them to all processes of a service, and a terminal to all of its foreground: the zygote
/// serves on for who drains.
private func signals() throws {
    let zygote = try startZygote()
    let pid = zygote.pid!
    for signal in [SIGTERM, SIGINT, SIGHUP] { kill(pid, signal) }
    try zygote.expectEcho()
    try expect(zygote.pid == pid, "it is another zygote")
    for sent in [SIGTERM, SIGINT, SIGHUP] {
        let (call, child) = try zygote.begun()
        kill(child, sent)
        try expect(signal(in: failure(of: call))?.rawValue == sent, "a child is not ended by \(sent)")
    }
    try zygote.finish()
}

private final class Table {
    var value = 0
}

private func prewarm() throws {
    let said = try Channel()
    let table = Table()
    let zygote = try startZygote(
        hooks: .before {
            table.value += 42
            said.say(UInt8(truncatingIfNeeded: getpid()))
        }
    ) { handlers in
        handlers.answer("value") { _ in Zygote.Reply([UInt8(table.value)]) }
        handlers.answer("change") { _ in
            table.value = 1
            return Zygote.Reply()
        }
    }
    for _ in 0..<3 {
        try expect(try zygote.runAndWait("value").bytes == [42], "it is not warm")
        _ = try zygote.runAndWait("change")
    }
    try expect(table.value == 0, "it was done here")
    try expect(try said.hear() == UInt8(truncatingIfNeeded: zygote.pid!), "it was done elsewhere")
    try expect(!isReadable(said.ends.read, within: 0), "it was done again")
    said.close()
    try zygote.finish()
}

private let counter = Mutex(0)

/// A Mutex keeps the number of the thread that locks it in a thread-local variable, which a fork copies.
private func prewarmedMutex() throws {
    let zygote = try startZygote(hooks: .before { counter.withLock { $0 = 100 } }) { handlers in
        handlers.answer("contend") { _ in
            onAnotherThread { for _ in 0..<50_000 { counter.withLock { $0 += 1 } } }
            var thread = pthread_t()
            pthread_create(
                &thread, nil,
                { _ in
                    for _ in 0..<50_000 { counter.withLock { $0 += 1 } }
                    return nil
                }, nil)
            for _ in 0..<50_000 { counter.withLock { $0 += 1 } }
            pthread_join(thread, nil)
            return Zygote.Reply(Array("\(counter.withLock { $0 })".utf8))
        }
    }
    for _ in 0..<5 {
        let sum = String(decoding: try zygote.runAndWait("contend").bytes, as: UTF8.self)
        try expect(sum == "150100", sum)
    }
    try zygote.finish()
}

/// What goes wrong while it gets warm is told by the start, and leaves nothing.
private func notReady() throws {
    func check(_ wanted: String, line: Int = #line, _ body: @escaping () throws -> Void) throws {
        let text = try invalidity({ _ = try startZygote(hooks: .before(body)) }, line: line)
        try expect(text.contains(wanted), text, line: line)
        try expectNoChildren()
    }
    try check("beforeFork failed: it threw Failure: as asked") { throw Failure("as asked") }
    try check("SIGILL") { _ = [1].firstIndex(of: 2)! }
    try check("status 3") { exit(3) }
    try check("there are 2") {
        var thread = pthread_t()
        pthread_create(&thread, nil, { _ in while true { pause() } }, nil)
    }
    let zygote = try startZygote(hooks: .before { onAnotherThread {} })  // gone by then
    try zygote.expectEcho()
    try zygote.finish()
}

private func refusals() throws {
    let error = try besideAThread { try refusal { _ = try startZygote() } }
    try expect(error == .threads(count: 2), "\(error)")
    for (children, waiting, reply) in [(0, 1, 1), (1, -1, 1), (1, 1, -1)] {
        _ = try invalidity { _ = try startZygote(maxChildren: children, maxWaiting: waiting, maxReplyBytes: reply) }
    }
    let thrown = try invalidity { _ = try startZygote { _ in throw Failure("as asked") } }
    try expect(thrown.contains("as asked"), thrown)
    for name in ["echo", "", String(repeating: "x", count: 65)] {
        let child = foreignChild {
            beSilent()
            _ = try? startZygote { $0.answer(name) { _ in Zygote.Reply() } }
            return 0
        }
        var status: Int32 = 0
        try expect(waitpid(child, &status, 0) == child && status & 0x7f == SIGILL, "'\(name)' was taken: \(status)")
    }
    let zygote = try startZygote { $0.answer(String(repeating: "x", count: 64)) { _ in Zygote.Reply([1]) } }
    try expect(try zygote.runAndWait(String(repeating: "x", count: 64)).bytes == [1], "a long name")
    let second = try invalidity { _ = try startZygote() }
    try expect(second.contains("already"), second)
    for wrong in [\ResourceLimits.maxCPUSeconds, \.maxMemoryBytes, \.maxOpenFiles] {
        var limits = ResourceLimits()
        limits[keyPath: wrong] = 0
        guard try failure({ _ = try zygote.begin("echo", limits: limits) }).code == .invalid else {
            throw Failure("no limit at all was taken")
        }
    }
    try zygote.finish()
}

/// Who believed it would become a zygote here, and come no further.
private func variable(_ value: String) throws {
    let name = "FORKING_ZYGOTE"
    setenv(name, value, 1)
    let zygote = try startZygote { handlers in
        handlers.answer("variable") { _ in Zygote.Reply(getenv(name) == nil ? [] : [1]) }
    }
    try expect(getenv(name) == nil, "programs that are started here have it")
    try expect(try zygote.runAndWait("variable").bytes.isEmpty, "children have it")
    try zygote.finish()
}
