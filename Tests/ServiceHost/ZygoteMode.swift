// SPDX-License-Identifier: Apache-2.0
//
// A host whose services are its zygote's and one that calls it.

import Dispatch
import Forking
import ForkingAsync
import ForkingIntegrations
import Glibc
import ServiceLifecycle
import Synchronization
import UnixSignals

struct Thrown: Error, CustomStringConvertible {
    let description: String
}

private func register(_ handlers: inout Zygote.Handlers) {
    handlers.answer("echo") { Zygote.Reply($0.bytes) }
    handlers.answer("probe") { _ in Zygote.Reply() }
    handlers.answer("throw") { _ in throw Thrown(description: "two\nlines") }
    handlers.answer("trap") { Zygote.Reply([$0.bytes[$0.bytes.count]]) }
    handlers.isolate("keep") { _ in
        var count = 0
        return { request in
            if request.bytes == [0] { return Zygote.Reply([request.bytes[1]]) }
            count += 1
            return Zygote.Reply(Array("\(count)".utf8))
        }
    }
    handlers.answer("hang") { _ in while true { pause() } }
    // Answers when somebody opens this for writing.
    handlers.answer("fifo") { request in
        let file = open(String(decoding: request.bytes, as: UTF8.self), O_RDONLY)
        return Zygote.Reply(Array((file < 0 ? "none" : "opened").utf8))
    }
}

/// Makes the calls that it was given, in order; one with a `&` is not waited for. Then it waits for its end.
private struct Calls: Service {
    let zygote: Zygote
    let calls: [String]

    func run() async throws {
        for call in calls {
            if call == "until-lost" {
                await callUntilLost(3)
            } else if call == "isolate" {
                await callIsolate()
            } else if call.hasPrefix("&") {
                guard let begun = begin(call.dropFirst()) else { continue }
                let task = Task.detached { await finish(begun, call.dropFirst()) }
                inFlight.withLock { $0.append(task) }
            } else if let begun = begin(call[...]) {
                await finish(begun, call[...])
            }
        }
        say("ready")
        try? await gracefulShutdown()
        say("calls shut down")
        Task.detached { await sayWhenShutDown() }
    }

    private func sayWhenShutDown() async {
        while true {
            do { _ = try await zygote.run("probe") } catch let error where error.code == .shutDown { break } catch {}
            try? await Task.sleep(for: .milliseconds(2))
        }
        say("no more calls")
    }

    /// Two calls of one child, which the second crashes, and one of the next.
    private func callIsolate() async {
        var configuration = Zygote.Isolate.Configuration()
        configuration.restart = .always
        do {
            let isolate = try await zygote.isolate("keep", configuration: configuration)
            for request in [[], [0], []] as [[UInt8]] {
                let reply = try? await isolate.run(request)
                say("isolate answered \(reply.map { String(decoding: $0.bytes, as: UTF8.self) } ?? "nothing")")
            }
            await isolate.close()
        } catch { say("isolate failed \(error)") }
    }

    private func begin(_ call: Substring) -> Zygote.Call? {
        let parts = call.split(separator: ":", maxSplits: 1)
        do { return try zygote.begin(String(parts[0]), Array((parts.count > 1 ? parts[1] : "").utf8)) } catch {
            say("\(call) failed \(error)")
            return nil
        }
    }

    private func finish(_ begun: Zygote.Call, _ call: Substring) async {
        do {
            say("\(call) answered \(String(decoding: try await begun.reply().bytes, as: UTF8.self))")
        } catch {
            say("\(call) failed \("\(error)".split(separator: "\n").joined(separator: " "))")
        }
    }

    /// Keeps the zygote busy from several threads, so that calls find it ended before its service does.
    private func callUntilLost(_ times: Int) async {
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    while losses.load(ordering: .relaxed) < times {
                        // In the pause before the next start calls fail at once.
                        if (try? await zygote.run("echo")) == nil { try? await Task.sleep(for: .milliseconds(5)) }
                    }
                }
            }
        }
    }
}

private let losses = Atomic(0)
private let inFlight = Mutex<[Task<Void, Never>]>([])

func hostZygote(_ arguments: [String]) throws {
    var calls = arguments[...]
    var deadline = Duration.seconds(60)
    if calls.first == "--deadline" {
        deadline = .milliseconds(Int(calls.dropFirst().first!)!)
        calls = calls.dropFirst(2)
    }
    var configuration = Zygote.Configuration()
    configuration.maxChildren = 2
    configuration.warmChildren = 0  // what is counted is what calls have forked
    configuration.maxWaiting = calls.contains("until-lost") ? 100 : 0
    let metrics = ZygoteMetrics(factory: StdoutMetrics())
    var hooks = Zygote.Hooks()
    hooks.onEvent = { event in
        if case .lost = event { losses.add(1, ordering: .relaxed) }
        logger.record(event)
        metrics.record(event)
    }
    let zygote = try Zygote.start(configuration: configuration, hooks: hooks) { register(&$0) }
    let group = ServiceGroup(
        services: [ZygoteService(zygote, drainTimeout: deadline), Calls(zygote: zygote, calls: Array(calls))],
        gracefulShutdownSignals: [.sigterm], cancellationSignals: [.sigint], logger: quiet)
    Task.detached {
        do { try await group.run() } catch { say("group threw \(error)") }
        for task in inFlight.withLock({ $0 }) { await task.value }
        say("over")
        exit(0)
    }
    dispatchMain()
}
