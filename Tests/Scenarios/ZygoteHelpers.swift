// SPDX-License-Identifier: Apache-2.0
//
// What the zygote's scenarios share: a zygote with handlers, calls that stay, and what they end with.

import CForkCore
import Forking
import Glibc
import Synchronization
import SystemPackage
import TestSupport

func startZygote(
    maxChildren: Int = 4, maxWaiting: Int = 4, maxReplyBytes: Int = 1 << 30, warm: Int? = nil,
    told: Told? = nil, hooks: Zygote.Hooks = Zygote.Hooks(),
    _ more: (inout Zygote.Handlers) throws -> Void = { _ in }
) throws -> Zygote {
    var configuration = Zygote.Configuration()
    configuration.maxChildren = maxChildren
    configuration.maxWaiting = maxWaiting
    configuration.maxReplyBytes = maxReplyBytes
    configuration.warmChildren = warm ?? warmByDefault
    var hooks = hooks
    hooks.onEvent = { told?.add($0) }
    return try Zygote.start(configuration: configuration, hooks: hooks) { handlers in
        handlers.answer("echo") { Zygote.Reply($0.bytes, descriptors: $0.descriptors) }
        handlers.answer("trap") { Zygote.Reply([$0.bytes[$0.bytes.count]]) }
        handlers.answer("throw") { _ in throw Failure("as asked") }
        handlers.answer("exit") { exit(Int32($0.bytes[0])) }
        handlers.answer("hang") { request in
            begin(request)
            while true { pause() }
        }
        try more(&handlers)
    }
}

/// Calls must have the same ends with warm children as without: a test can run the same scenarios with some.
let warmByDefault = getenv("FORKING_SCENARIO_WARM").flatMap { Int(String(cString: $0)) } ?? 0

/// Child: says its number over the first descriptor, if it was given one.
func begin(_ request: Zygote.Request) {
    var pid = getpid()
    if let descriptor = request.descriptors.first { _ = write(descriptor.rawValue, &pid, 4) }
}

extension Zygote.Hooks {
    static func before(_ body: @escaping () throws -> Void) -> Zygote.Hooks {
        var hooks = Zygote.Hooks()
        hooks.beforeFork = body
        return hooks
    }
}

extension Zygote {
    /// A call whose child has begun, and its number. The handler calls `begin`.
    func begun(_ name: String = "hang", deadline: Duration? = nil) throws -> (call: Call, child: pid_t) {
        let channel = try Channel()
        defer { channel.closeRead() }
        let call = try { () throws in
            defer { channel.closeWrite() }
            return try begin(name, descriptors: [FileDescriptor(rawValue: channel.ends.write)], deadline: deadline)
        }()
        var pid: pid_t = 0
        try expect(isReadable(channel.ends.read, within: 20), "no child began")
        try expect(read(channel.ends.read, &pid, 4) == 4, "no child began")
        return (call, pid)
    }

    /// Waits until so many children are warm. Once there are some, more come only after calls.
    func awaitWarm(_ count: Int = warmByDefault, line: Int = #line) throws {
        try eventually("line \(line): not \(count) warm children") {
            if status.warm < count { _ = try? runAndWait("echo") }
            return status.warm == count
        }
    }

    /// Waits until the zygote has warm children and no others.
    func awaitRest(line: Int = #line) throws {
        try awaitWarm(line: line)
        try eventually("line \(line): children are left") { status.children == status.warm }
    }

    func expectEcho(line: Int = #line) throws {
        try expect(try runAndWait("echo", [1, 2, 3]).bytes == [1, 2, 3], "no echo", line: line)
    }

    /// The end of a scenario.
    func finish(line: Int = #line) throws {
        let done = shutDownAndWait(timeout: .seconds(20))
        try expect(done, "it did not end", line: line)
    }

    /// Checks what a call fails with.
    func expectFailure(
        _ wanted: ForkingError, from name: String, _ bytes: [UInt8] = [], deadline: Duration? = nil, line: Int = #line
    ) throws {
        let got = try failure(line: line) { _ = try runAndWait(name, bytes, deadline: deadline) }
        try expect(got == wanted, "\(got), not \(wanted)", line: line)
    }
}

/// What a call fails with.
func failure(line: Int = #line, _ body: () throws -> Void) throws -> ForkingError {
    do { try body() } catch let error as ForkingError { return error }
    throw Failure("line \(line): no failure")
}

func failure(of call: Zygote.Call, line: Int = #line) throws -> ForkingError {
    try failure(line: line) { _ = try call.wait() }
}

/// The signal that a child was killed by, if that is what the error tells.
func signal(in error: ForkingError) -> Signal? {
    if case .signaled(let signal, _)? = error.exitStatus { signal } else { nil }
}

func expectGone(_ pids: [pid_t], within seconds: Double = 60, line: Int = #line) throws {
    try eventually(within: seconds, "line \(line): \(pids) live on") {
        pids.allSatisfy { Process($0)?.isZombie ?? true }
    }
}

/// What an observer was told.
final class Told: Sendable {
    private let events = Mutex<[Zygote.Event]>([])
    var all: [Zygote.Event] { events.withLock { $0 } }
    func add(_ event: Zygote.Event) { events.withLock { $0.append(event) } }

    /// The pauses after each loss, and how many failures had led to them.
    var losses: [(status: ExitStatus, failures: Int, pause: Duration)] {
        all.compactMap {
            if case .lost(_, let status, let failures, let pause) = $0 { (status, failures, pause) } else { nil }
        }
    }

    var starts: Int { all.count { if case .started = $0 { true } else { false } } }
}

/// Child: what its trap says is nobody's business.
func beSilent() { dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), 2) }

/// A file in memory of `size` bytes.
func memoryFile(_ size: Int) -> Int32 {
    var file: Int32 = -1
    _ = forkcore_memory_file("scenario", &file)
    ftruncate(file, size)
    return file
}

/// What a reply says.
func text(_ reply: Zygote.Reply) -> String { String(decoding: reply.bytes, as: UTF8.self) }
