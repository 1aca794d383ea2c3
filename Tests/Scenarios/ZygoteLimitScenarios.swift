// SPDX-License-Identifier: Apache-2.0
//
// What a call's child is limited to.

import CForkCore
import Forking
import Glibc
import SystemPackage
import TestSupport

let zygoteLimitScenarios = Group(
    "zygote-limit",
    Scenario("zygote-limits", "each limit holds, for its call", limits),
    Scenario(
        "zygote-given-connections", "without a network, a connection that was given leads to nobody else",
        givenConnections),
    Scenario("zygote-limit-refused", "a limit that cannot be had is told", limitRefused)
)

private func addHandlers(_ handlers: inout Zygote.Handlers) {
    handlers.answer("spin") { _ in while true {} }
    handlers.answer("allocate") { request in
        let mebibytes = Int(request.bytes[0])
        let block = [UInt8](repeating: 1, count: mebibytes << 20)
        return Zygote.Reply([block.last!])
    }
    handlers.answer("open") { _ in
        var last: Int32 = 0
        while case let next = open("/dev/null", O_RDONLY), next >= 0 { last = next }
        return Zygote.Reply([UInt8(last), UInt8(errno)])
    }
    handlers.answer("status") { _ in
        let lines = contents(of: "/proc/self/status")!.split(separator: "\n")
        return Zygote.Reply(Array(lines.first { $0.hasPrefix("NoNewPrivs:") }!.utf8))
    }
    handlers.answer("sockets") { _ in
        Zygote.Reply(
            [AF_INET, AF_INET6, AF_UNIX].map { family in
                let descriptor = socket(family, Int32(SOCK_STREAM.rawValue), 0)
                return descriptor >= 0 ? 0 : UInt8(errno)
            })
    }
}

/// Child: the errno of each way to somebody else by a TCP socket that was given: the first by connecting it anew, the
/// second by what it sends as it connects, the third by letting others connect. None is connected any more.
private func waysOut(_ request: Zygote.Request) -> [UInt8] {
    let sockets = request.descriptors.map(\.rawValue)
    var nobody = sockaddr()
    nobody.sa_family = sa_family_t(AF_UNSPEC)
    for socket in sockets { _ = connect(socket, &nobody, socklen_t(MemoryLayout<sockaddr>.size)) }
    let address = String(decoding: request.bytes, as: UTF8.self)
    func code(_ result: Int) -> UInt8 { result < 0 ? UInt8(errno) : 0 }
    let fastOpen: Int32 = 0x2000_0000
    return [
        code(Int((try? withAddress(address) { connect(sockets[0], $1, $2) }) ?? 0)),
        code((try? withAddress(address) { sendto(sockets[1], "x", 1, fastOpen, $1, $2) }) ?? 0),
        code(Int(listen(sockets[2], 1))),
    ]
}

/// A connection that was given is a way to whom it was connected, and to nobody else.
private func givenConnections() throws {
    let zygote = try startZygote { handlers in
        handlers.answer("ways out") { Zygote.Reply(waysOut($0)) }
    }
    let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    let other = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    func codes(_ noNetwork: Bool) throws -> [UInt8] {
        let given = try (0..<3).map { _ in try Client("\(listener.address)") }
        var limits = ResourceLimits()
        limits.deniesNetwork = noNetwork
        defer { withExtendedLifetime(given) {} }
        return try zygote.runAndWait(
            "ways out", Array("\(other.address)".utf8),
            descriptors: given.map { FileDescriptor(rawValue: $0.descriptor) }, limits: limits
        ).bytes
    }
    let free = try codes(false)
    try expect(free[0] == 0 && free[2] == 0 && free[1] != UInt8(EACCES), "there are no such ways anyway: \(free)")
    let limited = try codes(true)
    try expect(limited == [UInt8(EACCES), UInt8(EACCES), UInt8(EACCES)], "\(limited)")
    try zygote.finish()
    withExtendedLifetime((listener.descriptor, other.descriptor)) {}
}

private func limits() throws {
    let zygote = try startZygote(addHandlers)
    func run(
        _ name: String, _ bytes: [UInt8] = [], _ change: (inout ResourceLimits) -> Void = { _ in }
    ) throws -> Zygote.Reply {
        var limits = ResourceLimits()
        change(&limits)
        return try zygote.runAndWait(name, bytes, limits: limits)
    }
    try expect(signal(in: failure { _ = try run("spin") { $0.maxCPUSeconds = 1 } })?.rawValue == SIGXCPU, "it had time")

    let traps: [Int32] = [SIGILL, SIGTRAP, SIGSEGV, SIGABRT]
    try expect(try run("allocate", [24]) { $0.maxMemoryBytes = 32 << 20 }.bytes == [1], "it was within its limit")
    let beyond = try failure { _ = try run("allocate", [64]) { $0.maxMemoryBytes = 32 << 20 } }
    try expect(signal(in: beyond).map { traps.contains($0.rawValue) } ?? false, "\(beyond)")
    let request = [64] + [UInt8](repeating: 1, count: 64 << 20)  // what the request takes does not count
    try expect(
        signal(in: failure { _ = try run("allocate", request) { $0.maxMemoryBytes = 32 << 20 } }) != nil, "beyond")
    try expect(
        try run("echo", request) { $0.maxMemoryBytes = 32 << 20 }.bytes.count == request.count, "the request counts")

    let opened = try run("open") { $0.maxOpenFiles = 16 }
    try expect(opened.bytes[0] < 16 && opened.bytes[1] == UInt8(EMFILE), "\(opened.bytes)")
    try expect(try run("open").bytes[0] == 31, "it can open no more anyway")
    let both = try run("open") {
        $0.maxOpenFiles = 3
        $0.maxMemoryBytes = 32 << 20
    }
    try expect(both.bytes == [0, UInt8(EMFILE)], "\(both.bytes)")

    try expect(text(try run("status")).hasSuffix("0"), "it can have no new privileges anyway")
    try expect(text(try run("status") { $0.deniesNewPrivileges = true }).hasSuffix("1"), "it can have new privileges")

    try expect(try run("sockets").bytes[2] == 0, "it has no Unix sockets anyway")
    let sockets = try run("sockets") { $0.deniesNetwork = true }.bytes
    try expect(sockets == [UInt8(EACCES), UInt8(EACCES), 0], "\(sockets)")
    try expect(text(try run("status") { $0.deniesNetwork = true }).hasSuffix("1"), "it can have new privileges")
    try zygote.expectEcho()  // the next one has no limits
    try zygote.finish()
}

/// In a system that allows no filters of system calls, for which one stands here that refuses prctl(2).
private func limitRefused() throws {
    let code = forbidPrctl()
    try expect(code == 0, "prctl: \(Errno(rawValue: code))")
    let zygote = try startZygote(addHandlers)
    var limits = ResourceLimits()
    limits.deniesNetwork = true
    let refused = try failure { _ = try zygote.runAndWait("echo", limits: limits) }
    try expect(refused == .limitRefused(call: "prctl PR_SET_NO_NEW_PRIVS", .notPermitted), "\(refused)")
    try zygote.expectEcho()
    try zygote.finish()
}

/// From here on prctl(2) fails with EPERM. seccomp(2)
private func forbidPrctl() -> Int32 {
    #if arch(x86_64)
        let number: UInt64 = 157
    #else
        let number: UInt64 = 167
    #endif
    typealias Prctl = @convention(c) (Int32, UInt, UInt, UInt, UInt) -> Int32
    // It takes any number of arguments, which Swift does not import.
    let prctl = unsafeBitCast(dlsym(nil, "prctl"), to: Prctl.self)
    let (noNewPrivileges, seccomp, filter): (Int32, Int32, UInt) = (38, 22, 2)
    // struct sock_filter: code in 16 bits, jumps in 8 each, an operand in 32.
    func rule(_ code: UInt64, yes: UInt64 = 0, no: UInt64 = 0, _ operand: UInt64) -> UInt64 {
        code | yes << 16 | no << 24 | operand << 32
    }
    let rules = [
        rule(0x20, 0), rule(0x15, no: 1, number), rule(0x06, 0x0005_0000 | UInt64(EPERM)), rule(0x06, 0x7fff_0000),
    ]
    return rules.withUnsafeBufferPointer { rules in
        var program: (UInt64, UInt64) = (UInt64(rules.count), UInt64(UInt(bitPattern: rules.baseAddress)))
        return withUnsafePointer(to: &program) { program in
            guard prctl(noNewPrivileges, 1, 0, 0, 0) == 0 else { return errno }
            return prctl(seccomp, filter, UInt(bitPattern: program), 0, 0) == 0 ? 0 : errno
        }
    }
}
