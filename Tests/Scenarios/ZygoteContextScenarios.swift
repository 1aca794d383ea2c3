// SPDX-License-Identifier: Apache-2.0
//
// What goes with a call beside its bytes, and what is done around its handler.

import Forking
import Glibc
import Synchronization
import SystemPackage
import TestSupport

let zygoteContextScenarios = Group(
    "zygote-context",
    Scenario("zygote-context", "a call has the context of its beginning, and no other's", context),
    Scenario("zygote-context-hand-off", "a connection that is handed off has a context, and its peer", handOff),
    Scenario("zygote-context-long", "of a context that is too long, the longest texts are left out", long),
    Scenario("zygote-around", "a hook surrounds each handler", around),
    Scenario("zygote-around-wrong", "a hook that does not run the handler, or twice, fails the call", wrong)
)

/// What the host's hook returns.
private let current = Mutex<[String: String]>([:])

private func startWithContext(
    told: Told? = nil, around: ((Zygote.Request, () throws -> Void) throws -> Void)? = nil
) throws -> Zygote {
    var hooks = Zygote.Hooks()
    hooks.context = { current.withLock { $0 } }
    hooks.aroundHandler = around
    return try startZygote(told: told, hooks: hooks) { handlers in
        handlers.answer("context") { request in
            let texts = request.context.sorted { $0.key < $1.key }.map { "\($0)=\($1.prefix(20))" }
            return Zygote.Reply(Array("\(request.bytes.count) \(texts.joined(separator: ","))".utf8))
        }
        handlers.serve("served") { connection, request in
            try connection.write("\(connection.peer) \(request.context) \(request.bytes) \(request.descriptors.count)")
        }
    }
}

private func context() throws {
    let zygote = try startWithContext()
    func expect(_ context: [String: String], _ size: Int, _ wanted: String, line: Int = #line) throws {
        current.withLock { $0 = context }
        let got = text(try zygote.runAndWait("context", [UInt8](repeating: 1, count: size)))
        try TestSupport.expect(got == "\(size) \(wanted)", "\(got)", line: line)
    }
    for size in [0, 10, 30_000, 1_000_000] {
        try expect(["a": "1", "ü": "\0"], size, "a=1,ü=\0")
        try expect([:], size, "")
    }
    // A call that waits has that of its beginning.
    current.withLock { $0 = ["then": "yes"] }
    var running: [Zygote.Call] = []
    for _ in 0..<4 { running.append(try zygote.begun().call) }
    let waiting = try zygote.begin("context")
    current.withLock { $0 = ["now": "yes"] }
    running = []
    let got = text(try waiting.wait())
    try TestSupport.expect(got == "0 then=yes", got)
    try zygote.finish()
}

private func handOff() throws {
    let zygote = try startWithContext()
    for context in [[:], ["a": "1"]] {
        current.withLock { $0 = context }
        let (client, descriptor) = try connect(to: "127.0.0.1:0")
        // Not the client's own address, which the child could ask for itself.
        let call = try zygote.handOff("served", descriptor, [5, 6], peer: SocketAddress(parsing: "192.0.2.1:7"))
        let said = try client.receiveAll()
        try expect(said == "192.0.2.1:7 \(context) [5, 6] 0", said)
        _ = try call.wait()
    }
    try zygote.finish()
}

private func long() throws {
    let told = Told()
    let zygote = try startWithContext(told: told)
    let (short, long) = (String(repeating: "2", count: 5000), String(repeating: "3", count: 5001))
    current.withLock { $0 = ["a": "1", "b": short, "c": long] }
    let got = text(try zygote.runAndWait("context"))
    try expect(got == "0 a=1,b=\(short.prefix(20))", got)
    let cuts = told.all.compactMap { if case .contextCut(let name, let count) = $0 { "\(name) \(count)" } else { nil } }
    try expect(cuts == ["context 1"], "\(cuts)")
    try expect(told.all.contains { $0.isTrouble }, "no trouble")
    try zygote.finish()
}

private func around() throws {
    let zygote = try startWithContext { request, handle in
        if request.bytes == [9] { throw Failure("around") }
        setenv("AROUND", "\(request.bytes)", 1)
        defer { unsetenv("AROUND") }
        try handle()
        if request.bytes == [8] { throw Failure("after") }
    }
    current.withLock { $0 = [:] }
    try zygote.expectEcho()
    for (byte, what) in [(9, "around"), (8, "after")] as [(UInt8, String)] {
        try zygote.expectFailure(.threw(type: "Failure", description: what), from: "echo", [byte])
    }
    try zygote.expectFailure(.threw(type: "Failure", description: "as asked"), from: "throw")
    try zygote.finish()
}

private func wrong() throws {
    let zygote = try startWithContext { request, handle in
        if request.bytes == [1] { return }
        try handle()
        if request.bytes == [2] { try handle() }
    }
    current.withLock { $0 = [:] }
    for bytes in [[1], [2]] as [[UInt8]] {
        let error = try failure { _ = try zygote.runAndWait("echo", bytes) }
        try expect(error.code == .handlerThrew && "\(error)".contains("aroundHandler"), "\(error)")
    }
    try zygote.expectEcho()
    try zygote.finish()
}
