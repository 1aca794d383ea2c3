// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Forking
import Glibc
import SystemPackage
import TestSupport

let stopScenarios = Group(
    "stop",
    Scenario(
        "stop-before-serving", "stopped before it serves, a server takes nobody, and does not serve again",
        stopBeforeServing),
    Scenario("stop-from-signal-handler", "it can be asked for in a signal handler", stopFromSignalHandler),
    Scenario("stop-from-thread", "it can be asked for in another thread", stopFromThread),
    Scenario("stop-from-hooks", "it can be asked for in each hook", stopFromHooks),
    Scenario("close-from-hook", "a hook that would run the loop that runs it is told to ask for a stop", closeFromHook),
    Scenario("server-in-hook", "a hook may fork, and run another server", serverInHook),
    Scenario("stop-after-an-end", "what a child left that has ended by itself, unnoticed, lives on", stopAfterAnEnd),
    Scenario("stop-twice", "asked for twice it is one stop, and the hardest step counts", stopTwice),
    Scenario(
        "twenty-quick-stops", "twenty servers, one after the other at one address, serve their client as they stop",
        twentyQuickStops),
    Scenario("close-ends-children", "closing ends the children that are left after the drain", closeEndsChildren),
    Scenario("port-binds-again", "a child that is left alone does not keep the port", portBindsAgain)
)

private func stopBeforeServing() throws {
    let server = try echoServer()
    let client = try server.client()
    server.stop()
    var forks = 0
    server.hooks.onEvent = { if case .forked = $1 { forks += 1 } }
    try server.serve()
    try expect(forks == 0, "it served")
    try expect(try client.receiveAll() == "", "a client was left waiting")
    do {
        try server.serve()
        throw Failure("it serves after it was stopped")
    } catch let error as ForkingError where error.code == .invalid {
        let text = error.description
        try expect(text.contains("stopped"), text)
    }
    do {
        try server.serveOne()
        throw Failure("it takes a client after it was stopped")
    } catch let error as ForkingError where error.code == .invalid {}
}

/// Where the handler, which can be given nothing, finds the server.
nonisolated(unsafe) private var stopDescriptor: Int32 = -1
nonisolated(unsafe) private var stopWord = StopSwitch.word(for: .drain)

private func stopFromSignalHandler() throws {
    let server = try echoServer { $0.idleTimeout = nil }
    stopDescriptor = server.stopSwitch.descriptor.rawValue
    signal(SIGALRM) { _ in _ = write(stopDescriptor, &stopWord, 8) }
    var soon = itimerval(it_interval: timeval(), it_value: timeval(tv_sec: 0, tv_usec: 50_000))
    setitimer(__itimer_which_t(ITIMER_REAL.rawValue), &soon, nil)
    try server.serve()
    signal(SIGALRM, SIG_DFL)
}

private func stopFromThread() throws {
    let server = try echoServer {
        $0.idleTimeout = nil
        $0.child.allowsThreads = true
    }
    var thread = pthread_t()
    server.hooks.onEvent = { server, event in
        guard case .serving = event else { return }
        let stopSwitch = Unmanaged.passRetained(server.stopSwitch).toOpaque()
        pthread_create(
            &thread, nil,
            { stopSwitch in
                usleep(20_000)  // most likely the loop waits by then; either way it must stop
                Unmanaged<StopSwitch>.fromOpaque(stopSwitch!).takeRetainedValue().stop()
                return nil
            }, stopSwitch)
    }
    try server.serve()
    pthread_join(thread, nil)
}

private func stopFromHooks() throws {
    func stops(_ name: String, _ setUp: (ForkingServer) -> Void) throws {
        let server = try echoServer { $0.idleTimeout = .milliseconds(20) }
        setUp(server)
        let client = try server.briefClient()
        try server.serve()
        try expect(server.children.count == 0, "\(name): children are left")
        _ = try client.receiveAll()
    }
    try stops("onTurn") { server in server.hooks.onTurn = { server in server.stop() } }
    try stops("onIdle") { server in server.hooks.onIdle = { server in server.stop() } }
    try stops("verifyConnection") { server in
        server.hooks.verifyConnection = { server, _ in
            server.stop()
            return true
        }
    }
    try stops("observe") { server in
        server.hooks.onEvent = { server, event in if case .ended = event { server.stop(.kill) } }
    }
    try stops("signals") { server in
        server.hooks.signals[.hangup] = { server in server.stop(.terminate) }
        server.hooks.onIdle = { _ in kill(getpid(), SIGHUP) }
    }
}

/// Asking again for a step, in a later turn, changes nothing; the hardest that was asked for counts.
private func stopTwice() throws {
    func steps(_ first: [StopStep], then again: StopStep) throws -> [StopStep] {
        let server = try echoServer()
        var steps: [StopStep] = []
        let client = try server.client()
        server.hooks.onEvent = { server, event in
            if case .forked = event { for step in first { server.stop(step) } }
            guard case .stopping(let step) = event else { return }
            steps.append(step)
            if steps.count == 1 { server.stop(again) }
        }
        // The child lives until the turn after the first stop, which is the one that hears of the second.
        server.hooks.onTurn = { _ in if !steps.isEmpty { client.finishSending() } }
        try server.serve()
        return steps
    }
    try expect(try steps([.drain, .drain], then: .drain) == [.drain], "stopped twice")
    try expect(try steps([.drain, .kill, .terminate], then: .drain) == [.kill], "not killed at once")
    try expect(try steps([.drain], then: .terminate) == [.drain, .terminate], "the second, harder one had no effect")
}

/// Who has ended by himself, though nobody has noticed, was not told to: what he left in the background lives on.
private func stopAfterAnEnd() throws {
    let (words, gate) = (try Channel(), try Channel())
    let server = try ForkingServer(Listener(SocketAddress(parsing: "127.0.0.1:0"))) { _ in
        _ = foreignChild {
            words.say()
            gate.waitToBeTold()
            words.say(2)
            return 0
        }
        _ = try words.hear()
    }
    server.hooks.onEvent = { server, event in
        guard case .forked(let pid, _) = event else { return }
        try? expectZombie(pid)
        server.stop(.terminate)
    }
    let client = try server.client()
    try server.serve()
    gate.close()
    words.closeWrite()
    try expect(try words.hear() == 2, "it was ended")
    words.closeRead()
    withExtendedLifetime(client) {}
}

private func twentyQuickStops() throws {
    var address = "127.0.0.1:0"
    for round in 0..<20 {
        let server = try echoServer(address)
        address = "\(server.address)"
        let client = try server.briefClient()
        server.hooks.onEvent = { server, event in
            if case .forked = event { server.stop() }
        }
        try server.serve()
        try expect(try client.receiveAll() == "hello\n", "round \(round)")
    }
}

private func closeEndsChildren() throws {
    let server = try echoServer {
        $0.drainTimeout = .milliseconds(50)
        $0.waitsForChildren = true
    }
    var ended: [ChildExit] = []
    server.hooks.onEvent = { if case .ended(let exit) = $1 { ended.append(exit) } }
    let client = try server.client()
    try server.serveOne()
    try client.echo("hello")
    try server.close()
    try expect(ended.count == 1 && server.children.count == 0, "\(ended.count) ended")
    try expect(ended[0].status == .signaled(.terminate, dumpedCore: false), "\(ended[0])")
    try expect(ended[0].reason == .stopped, "\(ended[0])")
    try server.close()  // once more does no harm
}

/// A child holds no listener: a server that left its children alone gives its port up.
private func portBindsAgain() throws {
    let server = try echoServer { $0.waitsForChildren = false }
    let client = try server.client()
    try server.serveOne()
    try client.echo("hello")
    try server.close()
    try expect(server.children.count == 1, "closing ended the child")
    do {
        let again = try Listener(server.address)
        try expect(again.address == server.address, "\(again.address)")
    }
    try client.echo("still here")
    client.finishSending()
    _ = try server.children.wait()
}

/// A hook cannot run the loop that runs it; told so, it asks, and the server goes on and stops.
private func closeFromHook() throws {
    let server = try echoServer { $0.idleTimeout = .milliseconds(20) }
    var refusals: [String] = []
    server.hooks.onIdle = { server in
        for call in [server.serve, server.close, { _ = try server.serveOne() }] {
            do { try call() } catch { refusals.append("\(error)") }
        }
        server.stop()
    }
    try server.serve()
    try expect(refusals.count == 3 && refusals.allSatisfy { $0.contains("stop()") }, "\(refusals)")
}

/// A hook may do what any code of the parent's may: fork, and run another server.
private func serverInHook() throws {
    let inner = try echoServer()
    let outer = try echoServer { $0.idleTimeout = .milliseconds(20) }
    var ends: [ExitStatus] = []
    inner.hooks.onEvent = { if case .ended(let exit) = $1 { ends.append(exit.status) } }
    var failure: (any Error)?
    outer.hooks.onIdle = { outer in
        outer.stop()
        do {
            for number in 1...3 as ClosedRange<Int32> {
                let client = try inner.client()
                try expect(try inner.serveOne(), "nobody came")
                try client.echo("hello")
                client.finishSending()
                try inner.children.fork { number + 10 }
                _ = try inner.children.wait()
            }
        } catch {
            failure = error
        }
    }
    try outer.serve()
    if let failure { throw failure }
    let codes = ends.map { if case .exited(let code) = $0 { code } else { -1 as Int32 } }
    try expect(codes.sorted() == [0, 0, 0, 11, 12, 13], "\(ends)")
}
