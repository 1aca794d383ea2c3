// SPDX-License-Identifier: Apache-2.0
//
// What the table's scenarios share: a table that remembers, channels to its children, and children of somebody else.

import Forking
import Glibc
import TestSupport

/// A table that keeps what its observer was told.
final class RecordingTable {
    let table: ChildTable
    private(set) var exits: [ChildExit] = []

    init(limit: Int = 8, reaping: ChildTable.Reaping = .signal) throws {
        table = try ChildTable(maxChildren: limit, reaping: reaping)
        table.onExit = { [unowned self] in exits.append($0) }
    }

    /// Waits until no child is left, and says how they have ended. Generous: only what hangs takes this long.
    @discardableResult
    func finish(within deadline: Duration = .seconds(60), line: Int = #line) throws -> [ChildExit] {
        let done = try table.wait(atMost: deadline)
        try expect(done, "children left: \(table.children)", line: line)
        return exits
    }

    /// As above, when there was but one child.
    func finishOne(within deadline: Duration = .seconds(60), line: Int = #line) throws -> ChildExit {
        try finish(within: deadline, line: line)
        try expect(exits.count == 1, "one exit was to be told: \(exits)", line: line)
        return exits[0]
    }
}

/// A pipe between processes. Without a word in time, hearing fails.
struct Channel {
    let ends: (read: Int32, write: Int32)

    init() throws { ends = try pipe() }

    func say(_ byte: UInt8 = 1) {
        var byte = byte
        _ = write(ends.write, &byte, 1)
    }

    /// The next byte; nil when no process holds the writing end any more.
    func hear(line: Int = #line) throws -> UInt8? {
        try expect(isReadable(ends.read, within: 20), "nothing was heard", line: line)
        var byte: UInt8 = 0
        return read(ends.read, &byte, 1) == 1 ? byte : nil
    }

    /// Child: reads until somebody says something, or until nobody can.
    func waitToBeTold() {
        closeWrite()
        var byte: UInt8 = 0
        _ = read(ends.read, &byte, 1)
    }

    func closeWrite() { Glibc.close(ends.write) }
    func closeRead() { Glibc.close(ends.read) }

    func close() {
        closeRead()
        closeWrite()
    }
}

func isReadable(_ descriptor: Int32, within seconds: Double) -> Bool {
    var polled = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    return poll(&polled, 1, Int32(seconds * 1000)) == 1
}

/// A body for a child that lives until a signal ends it.
func liveOn() -> Int32 {
    while true { pause() }
}

/// A child of this process that no table knows.
func foreignChild(_ body: () -> Int32) -> pid_t {
    let pid = fork()
    if pid == 0 { _exit(body()) }
    return pid
}

/// Waits for a foreign child, which nobody may have touched.
func expectForeign(_ pid: pid_t, endsWith code: Int32, line: Int = #line) throws {
    var status: Int32 = 0
    try expect(waitpid(pid, &status, 0) == pid, "somebody reaped the foreign child", line: line)
    try expect(status == code << 8, "the foreign child ended with \(status)", line: line)
}

func expectZombie(_ pid: pid_t, line: Int = #line) throws {
    try eventually("\(pid) of line \(line) has not ended") { Process(pid)?.isZombie ?? false }
}

/// 0 for SIG_DFL, 1 for SIG_IGN, else a handler's address.
func disposition(of signal: Int32) -> Int {
    var action = sigaction()
    sigaction(signal, nil, &action)
    return unsafeBitCast(action.__sigaction_handler.sa_handler, to: Int.self)
}

func isBlocked(_ signal: Int32) -> Bool {
    var mask = sigset_t()
    pthread_sigmask(SIG_BLOCK, nil, &mask)
    return sigismember(&mask, signal) == 1
}

func setBlocked(_ signal: Int32, _ blocked: Bool) {
    var set = sigset_t()
    sigemptyset(&set)
    sigaddset(&set, signal)
    pthread_sigmask(blocked ? SIG_BLOCK : SIG_UNBLOCK, &set, nil)
}

/// What `body` throws, which must be an error of Forking's.
func refusal(_ body: () throws -> Void, line: Int = #line) throws -> ForkingError {
    do {
        try body()
    } catch let error as ForkingError {
        return error
    }
    throw Failure("line \(line): nothing was thrown")
}

/// The text of `ForkingError.invalid`.
func invalidity(_ body: () throws -> Void, line: Int = #line) throws -> String {
    let error = try refusal(body, line: line)
    guard case .invalid(let text) = error.detail else { throw Failure("line \(line): \(error)") }
    return text
}

/// Runs `body` on a second thread, and waits for it.
func onAnotherThread(_ body: @escaping @Sendable () -> Void) {
    final class Box: Sendable {
        let body: @Sendable () -> Void
        init(_ body: @escaping @Sendable () -> Void) { self.body = body }
    }
    var thread = pthread_t()
    let context = Unmanaged.passRetained(Box(body)).toOpaque()
    pthread_create(
        &thread, nil,
        {
            Unmanaged<Box>.fromOpaque($0!).takeRetainedValue().body()
            return nil
        }, context)
    pthread_join(thread, nil)
}

/// Runs `body` while a second thread, which waits, is there.
func besideAThread<R>(_ body: () throws -> R) throws -> R {
    let (begun, end) = (try Channel(), try Channel())
    var context = (begun: begun, end: end)
    var thread = pthread_t()
    try withUnsafeMutablePointer(to: &context) { context in
        pthread_create(
            &thread, nil,
            {
                let (begun, end) = $0!.assumingMemoryBound(to: (Channel, Channel).self).pointee
                var byte: UInt8 = 0
                begun.say()
                _ = read(end.ends.read, &byte, 1)
                return nil
            }, context)
        // Until here glibc blocks all its signals.
        _ = try begun.hear()
    }
    defer {
        end.closeWrite()
        pthread_join(thread, nil)
        end.closeRead()
        begun.close()
    }
    return try body()
}
