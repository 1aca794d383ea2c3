// SPDX-License-Identifier: Apache-2.0
//
// A host whose calls carry trace context and log metadata.

import Dispatch
import Forking
import ForkingAsync
import ForkingIntegrations
import Glibc
import Logging
import SystemPackage
import Tracing

private func register(_ handlers: inout Zygote.Handlers) {
    handlers.answer("sync") { request in
        withSpan(text(request)) { _ in Logger.current.info("handled", metadata: ["call": "\(text(request))"]) }
        return Zygote.Reply()
    }
    handlers.answer("async") { (request: Zygote.Request) async throws -> Zygote.Reply in
        await withSpan(text(request)) { _ in
            await Task.yield()
            await withTaskGroup(of: Void.self) { group in
                group.addTask { withSpan("\(text(request))-task") { _ in } }
            }
            Logger.current.info("handled", metadata: ["call": "\(text(request))"])
        }
        return Zygote.Reply()
    }
    handlers.serve("serve") { connection, request in
        try withSpan(text(request)) { _ in
            Logger.current.info("handled", metadata: ["call": "\(text(request))"])
            try connection.write("served")
        }
    }
    handlers.answer("bound") { request in
        let bound = ServiceContext.current == nil ? "nothing" : "something"
        return Zygote.Reply(Array("\(bound) is bound, \(request.context["own"] ?? "nothing") of its own".utf8))
    }
}

private func text(_ request: Zygote.Request) -> String { String(decoding: request.bytes, as: UTF8.self) }

private func called(_ zygote: Zygote) async throws {
    try await withSpan("host-sync") { _ in _ = try await zygote.run("sync", Array("child-sync".utf8)) }
    try await withLogger(mergingMetadata: ["request": "42", "pid": "the host's", "list": ["a", "b"]]) { _ in
        try await withSpan("host-async") { _ in _ = try await zygote.run("async", Array("child-async".utf8)) }
        _ = try await zygote.run("sync", Array("child-logged".utf8))
        say("logged: \(text(try await zygote.run("bound")))")
    }
    try withSpan("host-waiting") { _ in try wait(for: "child-waited", zygote) }
    try await withSpan("host-hand-off") { _ in
        let (ours, theirs) = try socketPair()
        let connection = Connection(theirs, peer: try SocketAddress(unix: "@none"))
        _ = try await zygote.handOff("serve", connection, Array("child-served".utf8)).reply()
        try ours.close()
    }
    try await withSpan("host-later") { _ in _ = try await zygote.run("sync", Array("later-child".utf8)) }
    _ = try await zygote.run("sync", Array("child-alone".utf8))
    say("alone: \(text(try await zygote.run("bound")))")
    try await withThrowingTaskGroup(of: Void.self) { group in
        for number in 0..<20 {
            group.addTask {
                try await withSpan("host-\(number)") { _ in
                    try await withLogger(mergingMetadata: ["request": "\(number)"]) { _ in
                        let handler = number.isMultiple(of: 2) ? "sync" : "async"
                        _ = try await zygote.run(handler, Array("child-\(number)".utf8))
                    }
                }
            }
        }
        try await group.waitForAll()
    }
}

private func text(_ reply: Zygote.Reply) -> String { String(decoding: reply.bytes, as: UTF8.self) }

/// On a thread that blocks.
private func wait(for name: String, _ zygote: Zygote) throws { _ = try zygote.runAndWait("sync", Array(name.utf8)) }

private func socketPair() throws -> (FileDescriptor, FileDescriptor) {
    var ends: [Int32] = [0, 0]
    guard socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, &ends) == 0 else { throw Thrown(description: "no pair") }
    return (FileDescriptor(rawValue: ends[0]), FileDescriptor(rawValue: ends[1]))
}

func traceCalls(warmChildren: Int) throws {
    InstrumentationSystem.bootstrap(LineTracer())
    let trace = Logger.MetadataProvider {
        ServiceContext.current?[LineTracer.IDs.Key.self].map { ["trace": .string($0.trace)] } ?? [:]
    }
    LoggingSystem.bootstrap(
        { _, provider in StdoutLog(metadata: ["pid": "\(getpid())"], metadataProvider: provider) },
        metadataProvider: trace)
    var configuration = Zygote.Configuration()
    configuration.warmChildren = warmChildren
    var hooks = Zygote.Hooks()
    hooks.context = { ["own": "something"] }
    hooks.aroundHandler = { _, handle in
        defer { LineTracer.flush() }
        try handle()
    }
    hooks.propagateContext()
    // Its children must not see what is bound here.
    var zygote: Zygote?
    try withSpan("main") { _ in
        zygote = try Zygote.start(configuration: configuration, hooks: hooks) { register(&$0) }
    }
    let started = zygote!
    Task.detached {
        do { try await called(started) } catch { say("failed: \(error)") }
        await started.shutDown()
        say("over")
        exit(0)
    }
    dispatchMain()
}
