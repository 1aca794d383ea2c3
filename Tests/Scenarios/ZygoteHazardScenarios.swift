// SPDX-License-Identifier: Apache-2.0
//
// What a zygote has to survive: each was a defect once.

import CTestSupport
import Forking
import Glibc
import Synchronization
import SystemPackage
import TestSupport

let zygoteHazardScenarios = Group(
    "zygote-hazard",
    Scenario("hazard-look-after-drain", "to look after a drain starts no zygote", lookAfterDrain),
    Scenario("hazard-not-forked", "a zygote that cannot fork says so, though nobody has read the request", notForked),
    Scenario(
        "hazard-signal-mask", "whichever thread starts a new zygote, children have the signals that they had before",
        signalMask),
    Scenario("hazard-orphan", "a new zygote whose host dies meanwhile does not become a second host", orphan),
    Scenario(
        "hazard-cancel-stopped", "a call that a thread waits for can be cancelled while the zygote stands still",
        cancelStopped),
    Scenario(
        "hazard-slow-prewarm", "a new zygote that is not ready yet is not taken for one that stands still", slowPrewarm),
    Scenario("hazard-observer", "an observer may cancel the call whose end it is told of", observer),
    Scenario("hazard-reply-bytes", "a reply may be as long as its limit, and not a byte longer", replyBytes),
    Scenario(
        "hazard-untaken", "calls that ended with their zygote, and that nobody has taken, leave their places to others",
        untaken),
    Scenario(
        "hazard-slow-execve", "while a new zygote's execve takes long, other threads do not wait for it", slowExecve),
    Scenario("hazard-held-execve", "a new zygote that is never executed fails the calls that wait for it", heldExecve),
    Scenario(
        "hazard-killed-in-execve", "a zygote that is killed before it is executed is gone for good", killedInExecve),
    Scenario(
        "hazard-no-descriptor", "a host that has no descriptor left keeps its zygote, though that is not its first",
        noDescriptor)
)

let zygoteHazardScenariosWithTracing = Group(
    "zygote-hazard-with-tracing",
    Scenario("hazard-late-to-end", "a zygote that takes long to end has a successor", lateToEnd)
)

/// What the observer was told.
private let told = Mutex<[Zygote.Event]>([])

private func start(
    _ change: (inout Zygote.Configuration) -> Void = { _ in },
    onEvent: @escaping @Sendable (Zygote.Event) -> Void = { event in told.withLock { $0.append(event) } },
    beforeFork: @escaping () -> Void = {}
) throws -> Zygote {
    var configuration = Zygote.Configuration()
    configuration.warmChildren = warmByDefault
    change(&configuration)
    var hooks = Zygote.Hooks()
    hooks.onEvent = onEvent
    hooks.beforeFork = beforeFork
    return try Zygote.start(configuration: configuration, hooks: hooks) { handlers in
        handlers.answer("echo") { Zygote.Reply($0.bytes) }
        handlers.answer("hang") { _ in while true { pause() } }
        handlers.answer("mask") { _ in
            var mask = sigset_t()
            pthread_sigmask(SIG_BLOCK, nil, &mask)
            return Zygote.Reply([UInt8(sigismember(&mask, SIGUSR1))])
        }
    }
}

/// Whether this process was started to be another's zygote.
private var isSuccessor: Bool { getenv("FORKING_ZYGOTE") != nil }

private func killZygote(_ zygote: Zygote) throws {
    guard let pid = zygote.pid else { throw Failure("no zygote") }
    kill(pid, SIGKILL)
    // The descriptor may be readable because children are warm.
    try eventually("it lives on") { Process(pid)?.isZombie ?? true }
    try awaitReadable(zygote.descriptor!.rawValue)
}

private func awaitReadable(_ descriptor: Int32) throws {
    var polled = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    try expect(poll(&polled, 1, 20_000) == 1, "nothing to read")
}

private func lookAfterDrain() throws {
    let zygote = try start()
    let first = zygote.pid
    zygote.stop()
    try eventually("it does not end") {
        zygote.poll()
        try expect(zygote.pid == nil || zygote.pid == first, "a zygote was started after the drain")
        return zygote.pid == nil
    }
    zygote.poll()
    try expect(zygote.pid == nil, "a zygote was started after the drain")
}

/// The zygote says so on a channel whose request nobody has read; that must not hide its word.
private func notForked() throws {
    let zygote = try start(beforeFork: {
        if getuid() == 0 { setuid(65534) }
        var none = rlimit(rlim_cur: 0, rlim_max: 0)
        setrlimit(Int32(__RLIMIT_NPROC.rawValue), &none)
    })
    let error = try failure { _ = try zygote.runAndWait("echo") }
    try expect(error == .system(call: "fork", .resourceTemporarilyUnavailable), "\(error)")
}

/// Whichever thread starts the new zygote, children have the signals that they had before.
private func signalMask() throws {
    let zygote = try start()
    let before = try zygote.runAndWait("mask").bytes
    var mask = sigset_t()
    var old = sigset_t()
    sigfillset(&mask)
    pthread_sigmask(SIG_SETMASK, &mask, &old)  // as Dispatch's threads have it
    defer { pthread_sigmask(SIG_SETMASK, &old, nil) }
    try killZygote(zygote)
    let after = try zygote.runAndWait("mask").bytes
    try expect(before == [0] && after == [0], "SIGUSR1 is blocked: \(before) before, \(after) after")
}

/// The host dies while its new zygote is on its way to Zygote.start: that must not become a second host.
private func orphan() throws {
    if isSuccessor {
        let begun = now()
        let host = String(cString: getenv("FORKING_ZYGOTE"))
        while "\(getppid())" == host, now() - begun < 20 { sched_yield() }
        _ = try start()
        fputs("a second host\n", stderrStream())
        exit(0)
    }
    var ends: [Int32] = [-1, -1]
    try expect(pipe(&ends) == 0, "no pipe")
    defer { close(ends[0]) }
    let table = try ChildTable(maxChildren: 1)
    try table.fork {
        dup2(ends[1], 2)
        close(ends[0])
        close(ends[1])
        do {
            let zygote = try start()
            try killZygote(zygote)
            let call = try zygote.begin("echo")
            withExtendedLifetime((zygote, call)) { _ = kill(getpid(), SIGKILL) }
        } catch { fputs("\(error)\n", stderrStream()) }
        return 1
    }
    close(ends[1])
    var text: [UInt8] = []
    while true {
        try awaitReadable(ends[0])
        var byte: UInt8 = 0
        guard read(ends[0], &byte, 1) == 1 else { break }
        text.append(byte)
    }
    try expect(text.isEmpty, String(decoding: text, as: UTF8.self))
    try expect(table.wait(atMost: .seconds(10)), "the host lives")
}

private let waitingCall = Mutex<Zygote.Call?>(nil)
private let outcome = Mutex<ForkingError?>(nil)

/// A thread waits for a call without a deadline, the zygote stands still, and another thread cancels the call.
private func cancelStopped() throws {
    let zygote = try start()
    kill(zygote.pid!, SIGSTOP)
    let call = try zygote.begin("hang")
    waitingCall.withLock { $0 = call }
    var thread = pthread_t()
    pthread_create(
        &thread, nil,
        { _ in
            let call = waitingCall.withLock { $0! }
            do throws(ForkingError) { _ = try call.wait() } catch { outcome.withLock { $0 = error } }
            return nil
        }, nil)
    let begun = now()
    while !isAsleep(thread), now() - begun < 10 { sched_yield() }
    call.cancel()
    while outcome.withLock({ $0 }) == nil {
        try expect(now() - begun < 30, "it waits for ever")
        sched_yield()
    }
    pthread_join(thread, nil)
    waitingCall.withLock { $0 = nil }
    try expect(outcome.withLock { $0 } == .cancelled, "not cancelled")
}

/// Whether the process's other thread sleeps: it is the one task that is not the first.
private func isAsleep(_: pthread_t) -> Bool {
    guard let directory = opendir("/proc/self/task") else { return false }
    defer { closedir(directory) }
    while let entry = readdir(directory) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) {
            $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
        guard let id = Int32(name), id != getpid(), let file = fopen("/proc/self/task/\(id)/syscall", "r") else {
            continue
        }
        defer { fclose(file) }
        var line = [CChar](repeating: 0, count: 64)
        guard fgets(&line, 64, file) != nil else { continue }
        return line[0] != CChar(UInt8(ascii: "r"))  // "running"
    }
    return false
}

/// A new zygote that is not ready yet does not stand still.
private func slowPrewarm() throws {
    let successor = isSuccessor
    let zygote = try start(beforeFork: { if successor { raise(SIGSTOP) } })
    try killZygote(zygote)
    let error = try failure { _ = try zygote.runAndWait("echo", deadline: .milliseconds(50)) }
    try expect(error == .deadlineExceeded(.milliseconds(50)), "\(error)")
    guard let pid = zygote.pid else { throw Failure("the new zygote was killed before it was ready") }
    kill(pid, SIGCONT)
    let reply = try zygote.runAndWait("echo", [1])
    try expect(reply.bytes == [1] && zygote.pid == pid, "another zygote")
}

private let observedCall = Mutex<Zygote.Call?>(nil)

/// An observer may do what it likes with calls: also with the one whose end it is told of.
private func observer() throws {
    let zygote = try start(onEvent: { event in
        guard case .finished = event else { return }
        observedCall.withLock { $0 }?.cancel()
    })
    let call = try zygote.begin("echo", [1])
    observedCall.withLock { $0 = call }
    let reply = try call.wait()
    try expect(reply.bytes == [1], "wrong bytes")
    observedCall.withLock { $0 = nil }
}

private func replyBytes() throws {
    let zygote = try start { $0.maxReplyBytes = 10 }
    _ = try zygote.runAndWait("echo", [UInt8](repeating: 1, count: 10))
    let error = try failure { _ = try zygote.runAndWait("echo", [UInt8](repeating: 1, count: 11)) }
    guard error.code == .invalid else { throw Failure("\(error)") }
}

/// A zygote that is dead, but cannot be reaped yet: here because a debugger that stands still has not let go of it.
private func lateToEnd() throws {
    let zygote = try start()
    let pid = zygote.pid!
    let tracers = try ChildTable(maxChildren: 1, reaping: .pidfd)
    let null = try FileDescriptor.open("/dev/null", .readWrite)
    let tracer = try tracers.spawn(
        Program(path: "/usr/bin/env", arguments: ["env", "strace", "-qq", "-o", "/dev/null", "-p", "\(pid)"]), on: null)
    try null.close()
    let begun = now()
    while !isTraced(pid) {
        try expect(now() - begun < 20, "nobody traces it")
        sched_yield()
    }
    kill(tracer, SIGSTOP)
    kill(pid, SIGKILL)
    let error = try failure { _ = try zygote.runAndWait("echo", [1], deadline: .milliseconds(50)) }
    try expect(error == .deadlineExceeded(.milliseconds(50)), "\(error)")
    // It cannot be reaped: nobody waits for that, and another one serves.
    let reply = try zygote.runAndWait("echo", [1])
    try expect(reply.bytes == [1] && zygote.pid != pid, "no successor")
    try expect(Process(pid) != nil, "it was reaped: this test is none")
    kill(tracer, SIGKILL)
    try expect(tracers.wait(atMost: .seconds(10)), "the tracer lives")
    try eventually("it is not reaped, although it can be") {
        _ = zygote.status
        return Process(pid) == nil
    }
}

private func isTraced(_ pid: ProcessID) -> Bool {
    guard let file = fopen("/proc/\(pid)/status", "r") else { return false }
    defer { fclose(file) }
    var line = [CChar](repeating: 0, count: 128)
    while fgets(&line, 128, file) != nil {
        let text = line.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
        if text.hasPrefix("TracerPid:") { return !text.hasSuffix("\t0\n") }
    }
    return false
}

/// Calls that ended with their zygote, and that nobody has taken yet, leave their places to others.
private func untaken() throws {
    let zygote = try start { $0.maxChildren = 2 }
    let calls = try (0..<2).map { _ in try zygote.begin("hang") }
    let waiting = try zygote.begin("echo", [1], deadline: .seconds(5))
    try killZygote(zygote)
    zygote.poll()
    let first = try waiting.wait()
    let reply = try zygote.runAndWait("echo", [2], deadline: .seconds(5))
    try expect(first.bytes == [1] && reply.bytes == [2], "wrong bytes")
    for call in calls {
        let error = try failure { _ = try call.wait() }
        try expect(error == .lost(nextStart: nil), "\(error)")
    }
}

// MARK: A slow execve

/// From now on a zygote that this thread starts is not executed before somebody lets it go.
private func holdExecve() throws -> Int32 {
    var descriptor: Int32 = -1
    let code = test_hold_execve(&descriptor)
    try expect(code == 0, "seccomp: \(Errno(rawValue: code))")
    return descriptor
}

/// While one thread waits for a new zygote, others need not: neither those who look, nor who has a call for it.
private func slowExecve() throws {
    let zygote = try start()
    try killZygote(zygote)
    let held = try holdExecve()
    defer { close(held) }
    let outcome = Mutex<(went: Int32, bytes: [UInt8]?)>((0, nil))
    let other = try Thread {
        try? awaitReadable(held)
        let isRunning = zygote.status.running > 0 || zygote.pid != nil
        let call = try? zygote.begin("echo", [2])
        let went = isRunning ? -1 : test_let_execve_go(held)
        let bytes = try? call?.wait().bytes
        outcome.withLock { $0 = (went, bytes) }
    }
    let reply = try zygote.runAndWait("echo", [1], deadline: .seconds(20))
    other.join()
    let (went, bytes) = outcome.withLock { $0 }
    // Had the other thread waited, it would have come too late.
    try expect(went == 1 && bytes == [2] && reply.bytes == [1], "\(went) let go, \(bytes ?? []), \(reply.bytes)")
    try expect(zygote.shutDownAndWait(), "it was killed")
}

/// One that is not executed at all is given up, and leaves nothing; another is started later.
private func heldExecve() throws {
    let zygote = try start()
    try killZygote(zygote)
    let held = try holdExecve()
    defer { close(held) }
    let error = try failure { _ = try zygote.runAndWait("echo") }
    guard error.retryAfter != nil else { throw Failure("\(error)") }
    let failures = told.withLock { events in events.filter { if case .startFailed = $0 { true } else { false } } }
    try expect(failures.count == 1, "\(failures)")
    try eventually("it is not reaped") {
        _ = zygote.status
        return (try? expectNoChildren()) != nil
    }
    let other = try Thread {
        try? awaitReadable(held)
        _ = test_let_execve_go(held)
    }
    try eventually("no other is started") { (try? zygote.runAndWait("echo", [1]))?.bytes == [1] }
    other.join()
    try expect(zygote.shutDownAndWait(), "it was killed")
}

/// The host wants no zygote any more while one is on its way.
private func killedInExecve() throws {
    let zygote = try start()
    try killZygote(zygote)
    let held = try holdExecve()
    defer { close(held) }
    let other = try Thread {
        try? awaitReadable(held)
        zygote.stop(.kill)
        _ = test_let_execve_go(held)
    }
    let error = try failure { _ = try zygote.runAndWait("echo") }
    other.join()
    try expect(error == .shutDown, "\(error)")
    try expect(zygote.shutDownAndWait() && zygote.pid == nil, "it is there")
}

/// Without a descriptor the host can neither read what the kernel tells of the zygote, nor start another.
private func noDescriptor() throws {
    let zygote = try start()
    try killZygote(zygote)
    try eventually("no other is started") { (try? zygote.runAndWait("echo", [1]))?.bytes == [1] }
    let pid = zygote.pid
    var held: [Int32] = []
    while true {
        let descriptor = fcntl(0, F_DUPFD_CLOEXEC, 0)
        guard descriptor >= 0 else { break }
        held.append(descriptor)
    }
    for _ in 0..<20 { _ = try? zygote.runAndWait("echo", [2]) }
    held.forEach { close($0) }
    try expect(zygote.pid == pid && pid != nil, "it was replaced")
    try eventually("no answer any more") { (try? zygote.runAndWait("echo", [3]))?.bytes == [3] }
    try expect(zygote.pid == pid, "it was replaced")
    try expect(zygote.shutDownAndWait(), "it was killed")
}
