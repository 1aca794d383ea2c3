// SPDX-License-Identifier: Apache-2.0
//
// How a zygote ends, and what comes after it; and what is left when its host has ended.

import Forking
import Glibc
import SystemPackage
import TestSupport

let zygoteLifeScenarios = Group(
    "zygote-life",
    Scenario("zygote-killed", "killed, it loses what it had, and who waited is served by the next", killed),
    Scenario("zygote-watched", "its end shows at its descriptor", watched),
    Scenario("zygote-back-off", "those that die at once come at growing intervals", backOff),
    Scenario("zygote-stopped", "stopped, it is replaced", stopped),
    Scenario(program: "zygote-host", host),
    Scenario("zygote-host-killed", "nothing outlives a host that is killed") {
        try hostEnds(-SIGKILL) { $0.send(SIGKILL) }
    },
    Scenario("zygote-host-traps", "nothing outlives a host that traps") { try hostEnds(-SIGTRAP) { $0.send(SIGTRAP) } },
    Scenario("zygote-host-exits", "nothing outlives a host that exits") { try hostEnds(0) { $0.send(SIGUSR1) } }
)

/// A zygote that has served for more than a second has earned a successor at once.
private func serveForASecond(_ zygote: Zygote) throws {
    let begun = now()
    while now() - begun < 1.05 { try zygote.expectEcho() }
}

/// What it had is lost. Who waited is served by the next one.
private func killed() throws {
    let told = Told()
    let zygote = try startZygote(maxChildren: 2, maxWaiting: 3, told: told)
    var pids: [pid_t] = [zygote.pid!]
    for _ in 0..<2 {
        try serveForASecond(zygote)
        let children = [try zygote.begun(), try zygote.begun()]
        let waiting = try (1...3).map { try zygote.begin("echo", [$0]) }
        let begun = now()
        kill(pids.last!, SIGKILL)
        for (call, _) in children { try expect(failure(of: call) == .lost(nextStart: nil), "not lost") }
        for (index, call) in waiting.enumerated() {
            try expect(call.wait().bytes == [UInt8(index + 1)], "not answered")
        }
        try expect(now() - begun < 20, "it took \(now() - begun) s")
        try expectGone(children.map(\.child))
        pids.append(zygote.pid!)
        try expect(!pids.dropLast().contains(pids.last!), "it is the old one")
    }
    try expect(told.losses.count == 2 && told.starts == 3, "\(told.all)")
    for loss in told.losses {
        try expect(loss.status == .signaled(.kill, dumpedCore: false) && loss.pause == .zero, "\(loss)")
    }
    let parent = Process(pids.last!)!.parent
    try expect(parent == getpid(), "it is another's child: \(parent)")
    try expect(openDescriptors(of: pids.last!).filter { $0 <= 3 } == [0, 1, 2, 3].sorted(), "not on its place")
    try zygote.finish()
    guard case .ended? = told.all.last else { throw Failure("\(told.all)") }
}

/// Who has a loop learns of the end by the descriptor, and has the next one before the next call.
private func watched() throws {
    let zygote = try startZygote()
    try serveForASecond(zygote)
    try zygote.awaitWarm()
    let pid = zygote.pid!
    try expect(!isReadable(zygote.descriptor!.rawValue, within: 0), "it has something to say")
    try expect(zygote.poll() == nil && zygote.pid == pid, "it was replaced")
    kill(pid, SIGKILL)
    try expect(isReadable(zygote.descriptor!.rawValue, within: 20), "its end is not told")
    try expect(zygote.poll() == nil && zygote.pid != pid && zygote.pid != nil, "there is no other")
    try zygote.expectEcho()
    try zygote.finish()
}

/// The successors die at once, until a file is there: the pauses between them grow. Nothing is started meanwhile.
private func backOff() throws {
    let path = "/tmp/forking-zygote-\(getsid(0))"
    if getenv("FORKING_ZYGOTE") != nil, access(path, F_OK) != 0 { exit(9) }
    let told = Told()
    let zygote = try startZygote(told: told)
    try serveForASecond(zygote)
    kill(zygote.pid!, SIGKILL)
    try eventually("it lives on") { Process(zygote.pid ?? 0)?.isZombie ?? true }

    // The first starts at once, and takes the call before it is seen that it has died.
    var error = try failure { _ = try zygote.runAndWait("echo") }
    try expect(error == .lost(nextStart: nil), "\(error)")
    for wanted in [0.1, 0.2, 0.4] {
        error = try failure { _ = try zygote.runAndWait("echo") }
        guard let pause = error.retryAfter else { throw Failure("\(error)") }
        let seconds = pause / .seconds(1)
        try expect(seconds > 0 && seconds < wanted * 1.21, "\(pause), not \(wanted)")
        let starts = told.starts
        try expect(zygote.poll() != nil && told.starts == starts && zygote.pid == nil, "it was started again")
        if wanted == 0.4 { break }
        try eventually("it is not tried again") { zygote.poll() == nil }
        try expect(told.starts == starts + 1, "\(told.all)")
        try expect(isReadable(zygote.descriptor!.rawValue, within: 20), "it lives")
    }
    close(open(path, O_CREAT | O_CLOEXEC, 0o600))
    defer { unlink(path) }
    try eventually("it is not started again") { zygote.poll() == nil }
    try zygote.expectEcho()
    let losses = told.losses
    try expect(losses.map(\.failures) == [0, 1, 2, 3], "\(losses)")
    try expect(losses.dropFirst().allSatisfy { $0.status == .exited(code: 9) }, "\(losses)")
    for (loss, wanted) in zip(losses.dropFirst(), [0.1, 0.2, 0.4]) {
        try expect(abs(loss.pause / .seconds(1) - wanted) < wanted * 0.3, "\(loss.pause), not \(wanted)")
    }
    try zygote.finish()
}

/// One that stands still kills nobody: it is replaced, once, whichever call has seen that first.
private func stopped() throws {
    let told = Told()
    let zygote = try startZygote(told: told)
    try serveForASecond(zygote)
    let pid = zygote.pid!
    let deadline = Duration.milliseconds(50)
    let children = [try zygote.begun(deadline: deadline), try zygote.begun(deadline: deadline)]
    let cancelled = try zygote.begun()
    kill(pid, SIGSTOP)
    cancelled.call.cancel()
    let begun = now()
    for (call, _) in children {
        // From then on it is waited for that the zygote confirms it.
        try eventually("no deadline") { try call.poll() == nil && call.nextPollDelay > .seconds(1) }
    }
    for (call, _) in children { try expect(failure(of: call) == .deadlineExceeded(deadline), "another error") }
    try expect(failure(of: cancelled.call) == .cancelled, "another error")
    try expect(now() - begun < 60, "it took \(now() - begun) s")
    try expectGone(children.map(\.child) + [cancelled.child, pid])
    try zygote.expectEcho()
    try expect(told.losses.count == 1 && told.starts == 2, "\(told.all)")
    try zygote.finish()
}

// MARK: The host's end

/// Children that nothing but SIGKILL ends, or that have left where they were.
private func addStubborn(_ handlers: inout Zygote.Handlers) {
    handlers.answer("spin") { request in
        begin(request)
        while true {}
    }
    handlers.answer("ignore") { request in
        for number in 1..<Int32(32) { signal(number, SIG_IGN) }
        begin(request)
        while true { pause() }
    }
    handlers.answer("leave group") { request in
        setpgid(0, getppid())
        begin(request)
        while true { pause() }
    }
    handlers.answer("leave session") { request in
        setpgid(0, getppid())  // who leads a group cannot leave its session
        setsid()
        begin(request)
        while true { pause() }
    }
    handlers.answer("fork") { request in
        var pid = foreignChild(liveOn)
        _ = write(request.descriptors[0].rawValue, &pid, 4)
        while true { pause() }
    }
}

/// Of the scenarios that follow: the process that ends. It says who is there, and exits at SIGUSR1.
private func host() throws {
    signal(SIGUSR1) { _ in exit(0) }
    let zygote = try startZygote(maxChildren: 6, maxWaiting: 1, addStubborn)
    var calls: [Zygote.Call] = []
    var pids = [zygote.pid!]
    for name in ["spin", "ignore", "leave group", "leave session", "fork", "hang"] {
        let (call, child) = try zygote.begun(name)
        calls.append(call)
        pids.append(child)
    }
    calls.append(try zygote.begin("echo"))
    print(pids.map { "\($0)" }.joined(separator: " "))
    fflush(nil)
    withExtendedLifetime(calls) { while true { pause() } }
}

/// However a host ends, nothing of it is left.
private func hostEnds(_ status: Int32, _ end: (Running) -> Void) throws {
    let host = try Running("/proc/self/exe", ["zygote-host"])
    let pids = (try host.line() ?? "").split(separator: " ").compactMap { pid_t($0) }
    try expect(pids.count == 7 && pids.allSatisfy { Process($0) != nil }, "it did not begin: \(pids) \(host.errors)")
    end(host)
    try eventually("the host lives on") { Process(host.pid)?.isZombie ?? true }
    try expectGone(pids)
    try expect(host.wait() == status, "it ended otherwise")
    try host.expectNothingAlive()
}
