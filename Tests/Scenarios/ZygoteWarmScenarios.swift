// SPDX-License-Identifier: Apache-2.0
//
// Children that the zygote forks ahead of calls. That their calls end as all others do is tested by running the other
// groups with warm children, too.

import Forking
import Glibc
import SystemPackage
import TestSupport

let zygoteWarmScenarios = Group(
    "zygote-warm",
    Scenario("zygote-warm-child", "a call is served by a child forked before it, which serves no other", servedAhead),
    Scenario("zygote-warm-renewed", "half of them are renewed at once", renewed),
    Scenario("zygote-warm-burst", "more calls than warm children have theirs forked", burst),
    Scenario("zygote-warm-killed", "warm children that are killed cost no call", killedIdle),
    Scenario("zygote-warm-request-waits", "a request that its child has not taken is served by another", requestWaits),
    Scenario("zygote-warm-all-die", "a channel whose children all die is given up, and costs no call", allDie),
    Scenario("zygote-warm-zygote-killed", "no call is lost with a zygote whose children only waited", zygoteKilled),
    Scenario("zygote-warm-hand-off", "a connection is handed off to a warm child, even if that has died", handedOff),
    Scenario("zygote-warm-descriptors", "a warm child replies with descriptors that the call expects", descriptors),
    Scenario("zygote-warm-timeout", "a child's timeout begins with its call", timeout),
    Scenario("zygote-warm-shortage", "a host without descriptors uses the warm children it has", shortage),
    Scenario("zygote-warm-drained", "a drained zygote ends, and its warm children with it", drained)
)

extension Zygote {
    /// The zygote's children that are alive.
    fileprivate var childIDs: Set<pid_t> {
        guard let pid else { return [] }
        return Set(
            processes().filter { id in
                guard let process = Process(id), !process.isZombie else { return false }
                return process.parent == pid
            })
    }

    /// The process that serves a call.
    fileprivate func server(line: Int = #line) throws -> pid_t {
        try runAndWait("pid").bytes.withUnsafeBytes { $0.loadUnaligned(as: pid_t.self) }
    }
}

private func start(_ warm: Int, maxChildren: Int = 4, maxWaiting: Int = 40, told: Told? = nil) throws -> Zygote {
    let zygote = try startZygote(maxChildren: maxChildren, maxWaiting: maxWaiting, warm: warm, told: told) { handlers in
        handlers.answer("pid") { _ in Zygote.Reply(withUnsafeBytes(of: getpid()) { Array($0) }) }
    }
    try eventually("not \(warm) warm children") { zygote.status.warm == warm }
    return zygote
}

private func servedAhead() throws {
    let zygote = try start(4)
    var ahead = zygote.childIDs
    try expect(ahead.count == 4 && zygote.status.forks == 4, "\(ahead) \(zygote.status)")
    for _ in 0..<2 {
        let server = try zygote.server()
        try expect(ahead.remove(server) != nil, "\(server) was not forked ahead, or has served before")
    }
    try zygote.finish()
}

private func renewed() throws {
    let told = Told()
    let zygote = try start(4, told: told)
    _ = try zygote.server()
    try expect(zygote.status.warm == 3 && zygote.status.forks == 4, "\(zygote.status)")
    _ = try zygote.server()
    try eventually("they are not renewed") { zygote.status.warm == 4 }
    try expect(zygote.status.forks == 6, "\(zygote.status)")
    for _ in 0..<100 { _ = try zygote.server() }
    try zygote.awaitWarm(4)
    let forks = told.all.reduce(0) { if case .finished(let report) = $1 { $0 + report.work.forks } else { $0 } }
    try expect(forks <= zygote.status.forks && forks >= 100, "\(forks) \(zygote.status)")
    try zygote.finish()
}

/// All are answered, each its own.
private func burst() throws {
    let zygote = try start(2)
    let calls = try (0..<40).map { try zygote.begin("echo", [UInt8($0)]) }
    try expect(zygote.status.running == 4 && zygote.status.waiting == 36, "\(zygote.status)")
    for (number, call) in calls.enumerated() { try expect(call.wait().bytes == [UInt8(number)], "another's answer") }
    try zygote.finish()
}

private func killedIdle() throws {
    let zygote = try start(3)
    for _ in 0..<2 {
        try eventually("the last child lives") { zygote.childIDs.count == zygote.status.warm }
        let before = zygote.childIDs
        before.forEach { _ = kill($0, SIGKILL) }
        // On the same channels: the host does not notice.
        try eventually("they were not replaced") {
            zygote.childIDs.count == before.count && zygote.childIDs.isDisjoint(with: before)
        }
        try expect(zygote.status.warm == before.count, "\(zygote.status)")
        try expect(!before.contains(zygote.server()), "a dead one answered")
    }
    try zygote.finish()
}

private func requestWaits() throws {
    let zygote = try start(1)
    let child = zygote.childIDs.first!
    kill(child, SIGSTOP)
    try eventually("it goes on") { Process(child)?.state == "T" }
    let call = try zygote.begin("pid")
    try expect(!isReadable(call.descriptor.rawValue, within: 0.05), "a stopped child answered")
    kill(child, SIGKILL)
    let server = try call.wait().bytes.withUnsafeBytes { $0.loadUnaligned(as: pid_t.self) }
    try expect(server != child, "a dead one answered")
    try zygote.finish()
}

/// Four children of one channel die, one after the other: its host finds it closed.
private func allDie() throws {
    let zygote = try start(1)
    var dead: Set<pid_t> = []
    for _ in 0..<4 {
        try eventually("no other child") { !zygote.childIDs.subtracting(dead).isEmpty }
        let child = zygote.childIDs.subtracting(dead).first!
        kill(child, SIGKILL)
        dead.insert(child)
    }
    try eventually("there is another child") { zygote.status.children == 0 }
    try zygote.expectEcho()
    try zygote.finish()
}

private func zygoteKilled() throws {
    let told = Told()
    let zygote = try start(3, told: told)
    for _ in 0..<3 {
        try eventually("there are others than warm children") { zygote.childIDs.count == 3 }
        let (pid, children) = (zygote.pid!, Array(zygote.childIDs))
        let begun = now()
        while now() - begun < 1.05 { try zygote.expectEcho() }  // then the next is started at once
        kill(pid, SIGKILL)
        try expectGone(children + [pid])
        try zygote.expectEcho()
        try expect(zygote.pid != pid, "it is the old one")
        try zygote.awaitWarm(3)
    }
    try expect(told.losses.count == 3, "\(told.losses)")
    try zygote.finish()
}

private func handedOff() throws {
    let zygote = try startZygote(warm: 1) { handlers in
        handlers.serve("greet") { connection, _ in try connection.write(Array("hello".utf8)) }
    }
    for dies in [false, true] {
        try zygote.awaitWarm(1)
        try eventually("the last child lives") { zygote.childIDs.count == 1 }
        let child = zygote.childIDs.first!
        if dies {
            kill(child, SIGSTOP)
            try eventually("it goes on") { Process(child)?.state == "T" }
        }
        let (client, descriptor) = try connect(to: "127.0.0.1:0")
        let call = try zygote.handOff("greet", descriptor)
        if dies { kill(child, SIGKILL) }
        try expect(client.receiveAll() == "hello", "no greeting")
        _ = try call.wait()
    }
    try zygote.finish()
}

private func descriptors() throws {
    let zygote = try start(2)
    for _ in 0..<6 {
        let channel = try Channel()
        let given = FileDescriptor(rawValue: channel.ends.write)
        let reply = try zygote.runAndWait("echo", descriptors: [given], expecting: 1)
        channel.closeWrite()
        let back = reply.takeDescriptors()
        try expect(back.count == 1 && (try back[0].writeAll([7])) == 1, "\(back)")
        try back[0].close()
        var byte: UInt8 = 0
        try expect(read(channel.ends.read, &byte, 1) == 1 && byte == 7, "another pipe")
        channel.closeRead()
    }
    try zygote.finish()
}

/// A child waits for longer than it may work.
private func timeout() throws {
    var configuration = Zygote.Configuration()
    configuration.warmChildren = 1
    configuration.child.timeout = .milliseconds(300)
    let zygote = try Zygote.start(configuration: configuration) { handlers in
        handlers.answer("work") { request in
            let end = now() + Double(request.bytes[0]) / 100
            while now() < end {}
            return Zygote.Reply(withUnsafeBytes(of: getpid()) { Array($0) })
        }
    }
    try zygote.awaitWarm(1)
    let child = zygote.childIDs.first!
    let begun = now()
    while now() - begun < 0.7 { usleep(10_000) }
    let server = try zygote.runAndWait("work", [20]).bytes.withUnsafeBytes { $0.loadUnaligned(as: pid_t.self) }
    try expect(server == child, "the child did not outlive its waiting")
    try zygote.awaitWarm(1)
    let error = try failure { _ = try zygote.runAndWait("work", [250]) }
    try expect(signal(in: error) == .terminate, "\(error)")
    try zygote.finish()
}

/// All descriptors of the host are in use, but for what a call needs that has a channel.
private func shortage() throws {
    let zygote = try start(3)
    var held: [Int32] = []
    while true {
        let descriptor = fcntl(0, F_DUPFD_CLOEXEC, 0)
        guard descriptor >= 0 else { break }
        held.append(descriptor)
    }
    for _ in 0..<3 { try zygote.expectEcho() }
    held.forEach { close($0) }
    try zygote.expectEcho()
    try zygote.awaitWarm(3)
    try zygote.finish()
}

private func drained() throws {
    let zygote = try start(4)
    let pids = Array(zygote.childIDs) + [zygote.pid!]
    let call = try zygote.begun("hang")
    zygote.stop()
    try eventually("warm children are left") { zygote.childIDs == [call.child] }
    call.call.cancel()
    _ = try failure(of: call.call)
    try zygote.finish()
    try expectGone(pids)
}
