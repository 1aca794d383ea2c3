// SPDX-License-Identifier: Apache-2.0
//
// An isolate with a state, and calls of it on other threads.

import Forking
import Glibc
import Synchronization
import SystemPackage
import TestSupport

enum IsolateOrder: UInt8 {
    /// Adds 1 to the state, and replies with it.
    case add
    case pid, fail, trap, hang, spin, leave
    /// Replies with the rest of the request.
    case echo
    /// Hangs, after it has said so.
    case sayAndHang
    /// Sends a message that is no reply.
    case lie
}

/// The arguments are the first count; 255 throws, 254 traps.
func addState(_ handlers: inout Zygote.Handlers) {
    handlers.isolate("state") { arguments in
        var count = Int32(arguments.bytes.first ?? 0)
        if count == 255 { throw Failure("no state") }
        if count == 254 { trapNow() }
        return { request in
            switch IsolateOrder(rawValue: request.bytes[0])! {
            case .add: count += 1
            case .pid: return Zygote.Reply(withUnsafeBytes(of: getpid()) { Array($0) })
            case .fail: throw Failure("as asked")
            case .trap: trapNow()
            case .hang: while true { pause() }
            case .spin: while true {}
            case .leave: exit(7)
            case .echo: return Zygote.Reply(Array(request.bytes.dropFirst()), descriptors: request.descriptors)
            case .sayAndHang:
                begin(request)
                while true { pause() }
            case .lie: lie()
            }
            return Zygote.Reply(withUnsafeBytes(of: count) { Array($0) })
        }
    }
}

private func trapNow() -> Never {
    beSilent()
    let nothing: [UInt8] = []
    exit(Int32(nothing[nothing.count]))
}

/// Writes what is no reply to the channel, which is the only socket.
private func lie() {
    for descriptor in 3..<32 as Range<Int32> where socketType(of: descriptor) == 5 {
        _ = write(descriptor, [UInt8](repeating: 1, count: 1000), 1000)
    }
}

extension Zygote.Isolate {
    func number(_ order: IsolateOrder, deadline: Duration? = nil) throws(ForkingError) -> Int32 {
        try runAndWait([order.rawValue], deadline: deadline).bytes.withUnsafeBytes { $0.loadUnaligned(as: Int32.self) }
    }

    func expect(_ count: Int32, line: Int = #line) throws {
        let got = try number(.add)
        try TestSupport.expect(got == count, "\(got), not \(count)", line: line)
    }

    func failure(_ order: IsolateOrder, deadline: Duration? = nil, line: Int = #line) throws -> ForkingError {
        try isolatedFailure(line: line) { _ = try runAndWait([order.rawValue], deadline: deadline) }
    }

    /// Another thread's call that the child is serving, and the child.
    func begun() throws -> (call: OtherCall, child: pid_t) {
        let channel = try Channel()
        let call = try OtherCall(self, descriptor: channel.ends.write)
        defer {
            channel.closeRead()
            channel.closeWrite()
        }
        var pid: pid_t = 0
        try TestSupport.expect(isReadable(channel.ends.read, within: 20), "no child began")
        try TestSupport.expect(read(channel.ends.read, &pid, 4) == 4, "no child began")
        return (call, pid)
    }
}

/// A call on a thread of its own.
final class OtherCall: Sendable {
    private let outcome = Mutex<Result<[UInt8], ForkingError>?>(nil)
    private let thread = Mutex<Thread?>(nil)

    init(_ isolate: Zygote.Isolate, _ order: IsolateOrder = .sayAndHang, descriptor: Int32? = nil) throws {
        let descriptors = descriptor.map { [FileDescriptor(rawValue: $0)] } ?? []
        let thread = try Thread { [self] in
            do throws(ForkingError) {
                let reply = try isolate.runAndWait([order.rawValue], descriptors: descriptors)
                outcome.withLock { $0 = .success(reply.bytes) }
            } catch { outcome.withLock { $0 = .failure(error) } }
        }
        self.thread.withLock { $0 = thread }
    }

    func wait() throws -> Result<[UInt8], ForkingError> {
        thread.withLock { $0.take()?.join() }
        return outcome.withLock { $0! }
    }

    func failure() throws -> ForkingError {
        guard case .failure(let error) = try wait() else { throw Failure("it did not fail") }
        return error
    }
}

func startStates(_ maxChildren: Int = 4, told: Told? = nil) throws -> Zygote {
    try startZygote(maxChildren: maxChildren, told: told, addState)
}

extension Zygote {
    func state(
        _ count: UInt8 = 0, _ restart: Isolate.Restart = .never, deadline: Duration? = nil,
        _ change: (inout Isolate.Configuration) -> Void = { _ in }
    ) throws(ForkingError) -> Isolate {
        var configuration = Isolate.Configuration()
        configuration.restart = restart
        change(&configuration)
        return try isolateAndWait("state", [count], configuration: configuration, deadline: deadline)
    }
}

extension Told {
    var ends: [Zygote.IsolateReport] {
        all.compactMap { if case .isolateEnded(let report) = $0 { report } else { nil } }
    }
    var isolateStarts: Int { all.count { if case .isolateStarted = $0 { true } else { false } } }
}

let trapped = ExitStatus.signaled(.illegalInstruction, dumpedCore: false)

/// What a call fails with, for extensions that have a `failure` of their own.
private func isolatedFailure(line: Int, _ body: () throws -> Void) throws -> ForkingError {
    try failure(line: line, body)
}
