// SPDX-License-Identifier: Apache-2.0
//
// Memory that a host and its children share, and descriptors that a child passes off as such.

import CForkCore
import Forking
import Glibc
import SystemPackage
import TestSupport

let sharedMemoryScenarios = Group(
    "shared-memory",
    Scenario("memory-there-and-back", "64 MiB are changed by a child, and come back", thereAndBack),
    Scenario("memory-is-shared", "the pages are the same ones, which no process can write to", isShared),
    Scenario("memory-empty", "0 bytes are shared as well", empty),
    Scenario("memory-to-many", "one piece of memory is read by many calls, also those that wait", toMany),
    Scenario("memory-stays", "memory stays when its call, its child and the zygote have ended", stays),
    Scenario("memory-several", "a call takes and gives several", several),
    Scenario("memory-refused", "what a child passes off as shared memory is refused, and closed", refused),
    Scenario("memory-missing", "memory that was not passed is told", missing),
    Scenario("memory-limited", "without address space, sharing fails in the child as an error", limited),
    Scenario("memory-given-up", "memory whose filling threw is given up", givenUp),
    Scenario("memory-short", "what cannot be appended whole is not appended in part", short)
)

private let size = 64 << 20

/// No two pages are the same.
private func stamp(_ bytes: inout MutableRawSpan, _ first: Int) {
    for place in stride(from: 0, to: bytes.byteCount, by: 4096) {
        bytes.storeBytes(of: first &+ place &* 31, toByteOffset: place + 8, as: Int.self)
    }
}

private func stamped(_ count: Int, _ first: Int) throws -> SharedMemory {
    try SharedMemory(byteCount: count) { stamp(&$0, first) }
}

private func areEqual(_ one: borrowing SharedMemory, _ other: borrowing SharedMemory) -> Bool {
    one.withBytes { one in
        other.withBytes { other in
            one.withUnsafeBytes { one in
                other.withUnsafeBytes { other in
                    one.count == other.count
                        && (one.isEmpty || memcmp(one.baseAddress!, other.baseAddress!, one.count) == 0)
                }
            }
        }
    }
}

/// Which file it is, for whoever has a descriptor of it.
private func identity(_ descriptor: FileDescriptor) -> String {
    var status = stat()
    fstat(descriptor.rawValue, &status)
    return "\(status.st_dev):\(status.st_ino)"
}

/// How many pieces of shared memory a process has mapped.
private func mappings(of pid: pid_t = getpid()) -> Int {
    contents(of: "/proc/\(pid)/maps")?.split(separator: "\n").count { $0.contains("memfd:forking ") } ?? 0
}

private func addHandlers(_ handlers: inout Zygote.Handlers) {
    handlers.answer("stamp") { request in
        let memory = try request.sharedMemory()
        let changed = try SharedMemory(byteCount: memory.byteCount) { bytes in
            memory.withBytes { memory in
                memory.withUnsafeBytes { memory in
                    bytes.withUnsafeMutableBytes { $0.copyMemory(from: memory) }
                }
            }
            stamp(&bytes, Int(request.bytes[0]))
        }
        return Zygote.Reply(sharing: changed)
    }
    handlers.answer("return") { request in
        let memory = try request.sharedMemory()
        let seen = identity(memory.descriptor)
        return Zygote.Reply(Array(seen.utf8), sharing: memory)
    }
    handlers.answer("write") { request in
        let memory = try request.sharedMemory()
        return Zygote.Reply(Array(attempts(on: memory.descriptor.rawValue).utf8))
    }
    handlers.answer("first") { request in
        let memory = try request.sharedMemory()
        return Zygote.Reply([memory.withBytes { $0.unsafeLoad(fromByteOffset: 8, as: UInt8.self) }])
    }
}

private func thereAndBack() throws {
    let zygote = try startZygote(addHandlers)
    let before = openDescriptors(of: zygote.pid!)
    for round in 1...3 {
        let memory = try stamped(size, round)
        let back = try zygote.begin("stamp", [UInt8(round + 10)], sharing: memory, expecting: 1).wait()
            .takeSharedMemory()
        try expect(areEqual(back, try stamped(size, round + 10)), "other bytes came back")
        try expect(areEqual(memory, try stamped(size, round)), "the host's own have changed")
    }
    try expect(mappings() == 0, "\(mappings()) are still mapped")
    try eventually("the zygote keeps descriptors") { openDescriptors(of: zygote.pid!) == before }
    try expect(mappings(of: zygote.pid!) == 0, "the zygote has mapped some")
    try zygote.finish()
}

/// What can be done to memory that is shared; nothing if it is sealed.
private func attempts(on file: Int32) -> String {
    var done = ""
    if pwrite(file, "x", 1, 0) != -1 || errno != EPERM { done += "written " }
    if ftruncate(file, 0) != -1 || errno != EPERM { done += "truncated " }
    if ftruncate(file, 1 << 30) != -1 || errno != EPERM { done += "extended " }
    let mapped = mmap(nil, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0)
    if mapped != MAP_FAILED || errno != EPERM { done += "mapped" }
    return done
}

private func isShared() throws {
    let zygote = try startZygote(addHandlers)
    let memory = try stamped(size, 1)
    let reply = try zygote.begin("return", sharing: memory, expecting: 1).wait()
    let back = try reply.takeSharedMemory()
    try expect(text(reply) == identity(memory.descriptor), "the child had a copy: \(text(reply))")
    try expect(identity(back.descriptor) == identity(memory.descriptor), "a copy came back")
    try expect(mappings() == 2 && areEqual(memory, back), "\(mappings()) are mapped")
    for file in [memory.descriptor, back.descriptor] {
        try expect(attempts(on: file.rawValue) == "", "here: \(attempts(on: file.rawValue))")
        try expect(fcntl(file.rawValue, F_GETFD) == FD_CLOEXEC, "a program would have it")
    }
    let done = try text(zygote.begin("write", sharing: memory).wait())
    try expect(done == "", "in the child: \(done)")
    try zygote.finish()
}

private func empty() throws {
    let zygote = try startZygote(addHandlers)
    let none = try SharedMemory(byteCount: 0) { _ in }
    let back = try zygote.begin("stamp", [1], sharing: none, expecting: 1).wait().takeSharedMemory()
    try expect(back.byteCount == 0 && back.withBytes { $0.isEmpty }, "\(back.byteCount) bytes")
    let written = try SharedMemory.Writer().finish()
    try expect(
        try zygote.begin("return", sharing: written, expecting: 1).wait().takeSharedMemory().byteCount == 0, "more")
    try zygote.finish()
}

/// A call that waits for a slot keeps what it passes, when nobody else does.
private func toMany() throws {
    let zygote = try startZygote(maxChildren: 1, maxWaiting: 8, addHandlers)
    let (running, _) = try zygote.begun()
    let calls = try { () throws in
        let memory = try stamped(size, 42)
        return try (0..<5).map { _ in try zygote.begin("first", sharing: memory) }
    }()
    try expect(mappings() == 0, "it is still mapped")
    running.cancel()
    _ = try failure(of: running)
    for call in calls { try expect(try call.wait().bytes == [42], "other bytes") }
    try zygote.finish()
}

private func stays() throws {
    let zygote = try startZygote(addHandlers)
    let reply = try { () throws in
        let memory = try stamped(size, 1)
        return try zygote.begin("stamp", [7], sharing: memory, expecting: 1).wait()
    }()
    try zygote.finish()
    let memory = try reply.takeSharedMemory()
    try expect(areEqual(memory, try stamped(size, 7)), "other bytes")
    let error = try failure { _ = try reply.takeSharedMemory() }
    try expect(error == .invalid("the reply has 0 descriptors, and must have 1 to be shared memory"), "\(error)")
}

private func several() throws {
    let zygote = try startZygote { handlers in
        handlers.answer("swap") { request in
            for (index, byte) in request.bytes.enumerated() {
                let memory = try request.sharedMemory(at: index)
                try expect(memory.withBytes { $0.unsafeLoad(fromByteOffset: 8, as: UInt8.self) } == byte, "another one")
            }
            return Zygote.Reply(descriptors: request.descriptors.reversed())
        }
    }
    let one = try stamped(4096, 1)
    let two = try stamped(8192, 2)
    let reply = try zygote.begin("swap", [1, 2], sharing: one, descriptors: [two.descriptor], expecting: 2).wait()
    let came = reply.takeDescriptors()
    try expect(areEqual(try SharedMemory(receiving: came[0]), two), "the first is another")
    try expect(areEqual(try SharedMemory(receiving: came[1]), one), "the second is another")
    let given = try zygote.begin("swap", [1, 2], sharing: one, descriptors: [two.descriptor], expecting: 2).wait()
    let error = try failure { _ = try given.takeSharedMemory() }
    try expect(error == .invalid("the reply has 2 descriptors, and must have 1 to be shared memory"), "\(error)")
    try zygote.finish()
}

// MARK: What is refused

// Of <linux/fcntl.h>: Glibc does not show them to Swift.
private let (O_TMPFILE, O_PATH): (Int32, Int32) = (0x41_0000, 0x20_0000)
private let (addSeals, shrink, grow, change, later): (Int32, Int32, Int32, Int32, Int32) = (1033, 2, 4, 8, 16)

/// A file in memory, with these seals.
private func file(_ seals: Int32, _ fill: (Int32) -> Void = { _ = write($0, [UInt8](repeating: 1, count: 8192), 8192) })
    -> Int32
{
    let file = memoryFile(0)
    fill(file)
    _ = fcntl(file, addSeals, seals)
    return file
}

private let notMemory = "the descriptor is not shared memory: it must be a file in memory, of memfd_create(2)"
private let changeable = "the shared memory can still be changed: it lacks "

/// What a child sends in place of shared memory, and what its host says of it.
private let forgeries: [(name: String, text: String, make: @Sendable () throws -> Int32)] = [
    ("a pipe", notMemory, { try Channel().ends.read }),
    ("a file", notMemory, { open("/tmp", O_TMPFILE | O_RDWR, 0o600) }),
    (
        "a file of /dev/shm", "",
        {
            let file = open("/dev/shm", O_TMPFILE | O_RDWR, 0o600)
            _ = write(file, [UInt8](repeating: 1, count: 8192), 8192)
            return file
        }
    ),
    ("no seals", changeable + "F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE", { file(0) }),
    ("may shrink", changeable + "F_SEAL_SHRINK", { file(grow | change) }),
    ("may grow", changeable + "F_SEAL_GROW", { file(shrink | change) }),
    ("may be written", changeable + "F_SEAL_WRITE", { file(shrink | grow) }),
    ("may be written by whom it is mapped", changeable + "F_SEAL_WRITE", { file(shrink | grow | later) }),
    (
        "a terabyte of holes",
        "the shared memory has a hole at byte 0 of 1099511627776: its sender must write all of it",
        { file(shrink | grow | change) { _ = ftruncate($0, 1 << 40) } }
    ),
    (
        "a path", "fcntl F_GET_SEALS: Bad file descriptor",
        { open("/proc/self/fd/\(file(shrink | grow | change))", O_PATH) }
    ),
    (
        "for writing only", "mmap: Permission denied",
        { open("/proc/self/fd/\(file(shrink | grow | change))", O_WRONLY) }
    ),
]

/// The child passes each of them twice: if the host took the first, it would be ended by the second.
private func refused() throws {
    let zygote = try startZygote { handlers in
        for (name, _, make) in forgeries {
            handlers.answer(name) { _ in
                let made = FileDescriptor(rawValue: try make())
                guard made.rawValue >= 0 else { throw Failure("\(name): \(Errno(rawValue: errno))") }
                return Zygote.Reply(descriptors: [made, FileDescriptor(rawValue: dup(made.rawValue))])
            }
        }
    }
    let before = openDescriptors()
    for (name, wanted, _) in forgeries {
        let came = try zygote.runAndWait(name, expecting: 2).takeDescriptors()
        let error = try failure {
            let memory = try SharedMemory(receiving: came[0])
            ftruncate(came[1].rawValue, 0)
            let byte = memory.withBytes { $0.unsafeLoad(as: UInt8.self) }  // SIGBUS
            throw Failure("\(name) was taken, and has \(byte)")
        }
        try came[1].close()
        try expect(error.description == wanted || wanted.isEmpty, "\(name): \(error)")
        try eventually("\(name): descriptors are left") { openDescriptors() == before }
    }
    try expect(mappings() == 0, "something is mapped")
    let error = try failure { _ = try SharedMemory(receiving: FileDescriptor(rawValue: -1)) }
    try expect(error == .system(call: "fcntl F_GET_SEALS", .badFileDescriptor), "\(error)")
    try zygote.expectEcho()
    try zygote.finish()
}

private func missing() throws {
    let zygote = try startZygote(addHandlers)
    let none = "there is no shared memory at index 0: the request has 0 descriptors"
    try zygote.expectFailure(.threw(type: "ForkingError", description: none), from: "first")
    let pipe = try Channel()
    let error = try failure {
        _ = try zygote.runAndWait("first", descriptors: [FileDescriptor(rawValue: pipe.ends.read)])
    }
    try expect(error == .threw(type: "ForkingError", description: notMemory), "\(error)")
    pipe.close()
    let memory = try stamped(4096, 1)
    let unexpected = try failure { _ = try zygote.begin("return", sharing: memory).wait() }
    try expect(unexpected == .invalid("the child sent 1 descriptor, and 0 were expected"), "\(unexpected)")
    try zygote.finish()
}

private func limited() throws {
    let zygote = try startZygote { handlers in
        addHandlers(&handlers)
        handlers.answer("make") { _ in Zygote.Reply(sharing: try stamped(size, 1)) }
    }
    var limits = ResourceLimits()
    limits.maxMemoryBytes = size / 2
    let memory = try stamped(size, 1)
    let wanted = ForkingError.threw(type: "ForkingError", description: "mmap: Cannot allocate memory")
    for call in [
        try zygote.begin("first", sharing: memory, limits: limits),
        try zygote.begin("make", expecting: 1, limits: limits),
    ] {
        let error = try failure(of: call)
        try expect(error == wanted, "\(error)")
    }
    limits.maxMemoryBytes = size * 2
    try expect(try zygote.begin("first", sharing: memory, limits: limits).wait().bytes == [1], "other bytes")
    try zygote.finish()
}

private func givenUp() throws {
    let before = openDescriptors()
    let error = try failure {
        _ = try SharedMemory(byteCount: size) { _ in throw ForkingError.cancelled }
    }
    try expect(error == .cancelled, "\(error)")
    var writer = try SharedMemory.Writer()
    try writer.append([1, 2, 3].span.bytes)
    _ = consume writer
    try expect(openDescriptors() == before && mappings() == 0, "something is left")
}

private func short() throws {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
    limit.rlim_cur = 10_000
    setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
    let piece = [UInt8](repeating: 1, count: 6000)
    var writer = try SharedMemory.Writer()
    try writer.append(piece.span.bytes)
    do throws(ForkingError) {
        try writer.append(piece.span.bytes)
        throw .cancelled
    } catch {
        try expect(error == .system(call: "write", .fileTooLarge), "\(error)")
    }
    try expect(writer.byteCount == 6000, "\(writer.byteCount) bytes")
    try writer.append(([2, 3] as [UInt8]).span.bytes)
    let memory = try writer.finish()
    let bytes = memory.withBytes { $0.withUnsafeBytes(Array.init) }
    try expect(bytes == piece + [2, 3], "\(bytes.count) other bytes")
    let seen = try SharedMemory(receiving: memory.descriptor.duplicate())
    try expect(seen.byteCount == 6002, "whoever receives it sees \(seen.byteCount) bytes")
}
