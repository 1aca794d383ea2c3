// SPDX-License-Identifier: Apache-2.0
//
// The ways to have a job done in another process. Each is timed from before the call until the answer is complete in
// the host; what is to be done then (the child's end, reaping) is in the calls a second.

import CForkbench
import Forking
import Glibc

struct CallAnswer {
    let bytes: [UInt8]
    /// When it was complete.
    let at: ContinuousClock.Instant
}

protocol CallMethod: SendableMetatype {
    static var name: String { get }
    /// Nil: there was no answer within `CallTally.patience`.
    func call(_ request: [UInt8]) throws -> CallAnswer?
}

/// This library's: each call has a child forked.
struct ZygoteMethod: CallMethod {
    static let name = "zygote"
    /// The same with children forked ahead.
    static let warmName = "warm"
    private let zygote: Zygote

    init(_ zygote: Zygote) { self.zygote = zygote }

    func call(_ request: [UInt8]) throws -> CallAnswer? {
        do {
            let reply = try zygote.runAndWait("work", request, deadline: CallTally.patience)
            return CallAnswer(bytes: reply.bytes, at: .now)
        } catch let error where error.code == .deadlineExceeded {
            return nil
        }
    }
}

/// The same with one child for all calls.
struct IsolateMethod: CallMethod {
    static let name = "isolate"
    private let isolate: Zygote.Isolate

    init(_ zygote: Zygote) throws { isolate = try zygote.isolateAndWait("works") }

    func call(_ request: [UInt8]) throws -> CallAnswer? {
        do {
            let reply = try isolate.runAndWait(request, deadline: CallTally.patience)
            return CallAnswer(bytes: reply.bytes, at: .now)
        } catch let error where error.code == .deadlineExceeded {
            return nil
        }
    }
}

/// The same with two calls under way, begun in turn, each for half of its nap: for whoever wants to look at children
/// meanwhile (page_costs.py).
final class OverlappingMethod: CallMethod {
    static let name = "overlapping"
    private let zygote: Zygote
    private var last: Zygote.Call?

    init(_ zygote: Zygote) { self.zygote = zygote }

    func call(_ request: [UInt8]) throws -> CallAnswer? {
        let before = last
        last = try zygote.begin("work", request)
        usleep(Works.napTime / 2)
        return CallAnswer(bytes: try before?.wait().bytes ?? request, at: .now)
    }
}

/// A plain fork(2) of the host. The child answers over a socket, and ends.
struct ForkMethod: CallMethod {
    static let name = "fork"
    private let work: Work

    init(_ work: @escaping Work) { self.work = work }

    private final class Job {
        let work: Work
        let channel: Int32
        let count: Int

        init(_ work: @escaping Work, _ channel: Int32, _ count: Int) {
            (self.work, self.channel, self.count) = (work, channel, count)
        }

        /// Child.
        func run() {
            guard let request = try? readAll(channel, count) else { return }
            let answer = work(request)
            fflush(nil)
            try? writeAll(answer, to: channel)
        }
    }

    func call(_ request: [UInt8]) throws -> CallAnswer? {
        var ends: [Int32] = [-1, -1]
        let type = Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue)
        guard socketpair(AF_UNIX, type, 0, &ends) == 0 else { throw HostFailure(call: "socketpair") }
        let channel = Descriptor(ends[0])
        let job = Job(work, ends[1], request.count)
        var child: pid_t = 0
        let code = withExtendedLifetime(job) {
            forkbench_fork_running(
                { Unmanaged<Job>.fromOpaque($0!).takeUnretainedValue().run() },
                Unmanaged.passUnretained(job).toOpaque(), &child)
        }
        close(ends[1])
        try check("fork", code)
        return try answer(of: child, to: request, over: channel, channel)
    }
}

/// posix_spawn(3) of a program, with pipes as its stdin and stdout.
struct SpawnMethod: CallMethod {
    static let name = "posix_spawn"
    private let program: [String]

    init(_ program: [String]) { self.program = program }

    func call(_ request: [UInt8]) throws -> CallAnswer? {
        let (input, output) = (try Pipe(), try Pipe())
        let child = try spawn(input.read.number, output.write.number)
        // Its end is to be seen here.
        input.read.close()
        output.write.close()
        return try answer(of: child, to: request, over: input.write, output.read)
    }

    private func spawn(_ input: Int32, _ output: Int32) throws -> pid_t {
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, input, STDIN_FILENO)
        posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO)
        var arguments = program.map { strdup($0) } + [nil]
        defer { arguments.forEach { free($0) } }
        var child: pid_t = 0
        try check("posix_spawn", posix_spawn(&child, program[0], &actions, nil, &arguments, environ))
        return child
    }
}

/// Has the child answer, and reaps it; it is killed if it has not answered.
private func answer(
    of child: pid_t, to request: [UInt8], over input: Descriptor, _ output: Descriptor
) throws -> CallAnswer? {
    let result = Result {
        try writeAll(request, to: input.number)
        if input !== output { input.close() }
        return try readAnswer(output.number, request.count).map { CallAnswer(bytes: $0, at: .now) }
    }
    if case .success(.some) = result {} else { kill(child, SIGKILL) }
    output.close()  // who has more to say does not wait for us
    while waitpid(child, nil, 0) < 0, errno == EINTR {}
    return try result.get()
}

/// Closes it once, at the latest when it goes away.
private final class Descriptor {
    private(set) var number: Int32

    init(_ number: Int32) { self.number = number }
    deinit { close() }

    func close() {
        if number >= 0 { Glibc.close(number) }
        number = -1
    }
}

private struct Pipe {
    let read: Descriptor
    let write: Descriptor

    init() throws {
        var ends: [Int32] = [-1, -1]
        try check("pipe", forkbench_pipe(&ends))
        (read, write) = (Descriptor(ends[0]), Descriptor(ends[1]))
    }
}

/// Reads until so many bytes have come; nil if that takes longer than `CallTally.patience`.
private func readAnswer(_ descriptor: Int32, _ count: Int) throws -> [UInt8]? {
    let end = ContinuousClock.now + CallTally.patience
    var answer: [UInt8] = []
    while answer.count < count {
        let rest = (end - .now).components
        guard rest.seconds >= 0, rest.attoseconds >= 0 else { return nil }
        var polled = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
        guard poll(&polled, 1, Int32(rest.seconds * 1000 + rest.attoseconds / 1_000_000_000_000_000) + 1) > 0
        else { continue }
        let piece = try readSome(descriptor, count - answer.count)
        guard !piece.isEmpty else { throw HostFailure("the child ended without an answer") }
        answer += piece
    }
    return answer
}

/// Reads until the end, or until so many bytes have come.
func readAll(_ descriptor: Int32, _ most: Int = .max) throws -> [UInt8] {
    var bytes: [UInt8] = []
    while bytes.count < most, case let piece = try readSome(descriptor, min(4096, most - bytes.count)), !piece.isEmpty {
        bytes += piece
    }
    return bytes
}

private func readSome(_ descriptor: Int32, _ most: Int) throws -> [UInt8] {
    var count = 0
    let bytes = [UInt8](unsafeUninitializedCapacity: most) { free, filled in
        repeat { count = read(descriptor, free.baseAddress, most) } while count < 0 && errno == EINTR
        filled = max(0, count)
    }
    guard count >= 0 else { throw HostFailure(call: "read") }
    return bytes
}

func writeAll(_ bytes: [UInt8], to descriptor: Int32) throws {
    var rest = bytes[...]
    while !rest.isEmpty {
        let count = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { throw HostFailure(call: "write") }
        rest = rest.dropFirst(count)
    }
}
