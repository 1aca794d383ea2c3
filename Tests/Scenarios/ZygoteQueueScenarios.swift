// SPDX-License-Identifier: Apache-2.0
//
// More calls than there are places.

import Forking
import Glibc
import SystemPackage
import TestSupport

let zygoteQueueScenarios = Group(
    "zygote-queue",
    Scenario("zygote-order", "who waits longest is served first, whatever frees a place", order),
    Scenario("zygote-drain", "a drain serves who runs and who waits", drain),
    Scenario("zygote-shut-down-by-force", "a drain that takes too long is ended by force", shutDownByForce),
    Scenario("zygote-many-calls", "thousands of calls leave no descriptor", manyCalls),
    Scenario("zygote-short-of-descriptors", "no call is lost for want of descriptors", shortOfDescriptors),
    Scenario("zygote-slow", "a zygote that is slow loses no call, either", slowZygote),
    Scenario("zygote-waiting-takes-nothing", "calls that wait take no descriptors", waitingTakesNothing),
    Scenario(
        "zygote-waiting-with-descriptors", "what waiting calls pass on is kept, and bounded", waitingWithDescriptors),
    Scenario("zygote-waiting-polled", "a call that waits can be polled", waitingPolled),
    Scenario("zygote-shortage-ends", "a shortage is over when it is", shortageEnds)
)

/// Calls whose children say a letter when they begin, and stay until they get SIGUSR1.
private final class Gated {
    let zygote: Zygote
    let begun: Channel
    private var children: [Character: pid_t] = [:]

    init(maxChildren: Int, maxWaiting: Int) throws {
        zygote = try startZygote(maxChildren: maxChildren, maxWaiting: maxWaiting) { handlers in
            handlers.answer("gate") { request in
                setBlocked(SIGUSR1, true)
                var word = [pid_t(request.bytes[0]), getpid()]
                _ = write(request.descriptors[0].rawValue, &word, 8)
                var (set, number) = (sigset_t(), Int32(0))
                sigaddset(&set, SIGUSR1)
                sigwait(&set, &number)
                return Zygote.Reply(request.bytes)
            }
        }
        begun = try Channel()
    }

    func begin(_ letter: Character, deadline: Duration? = nil) throws -> Zygote.Call {
        try zygote.begin(
            "gate", [letter.asciiValue!], descriptors: [FileDescriptor(rawValue: begun.ends.write)], deadline: deadline)
    }

    /// Who begins next.
    func next(line: Int = #line) throws -> Character {
        try expect(isReadable(begun.ends.read, within: 20), "nobody begins", line: line)
        var word: [pid_t] = [0, 0]
        _ = read(begun.ends.read, &word, 8)
        let letter = Character(UnicodeScalar(UInt8(word[0])))
        children[letter] = word[1]
        return letter
    }

    func open(_ letter: Character) { kill(children[letter]!, SIGUSR1) }

    func finish() throws {
        begun.close()
        try zygote.finish()
    }
}

/// A place is freed by an answer, a cancel, a drop and a deadline; whoever waits longest gets it.
private func order() throws {
    let calls = try Gated(maxChildren: 2, maxWaiting: 3)
    let (a, b) = (try calls.begin("a"), try calls.begin("b"))
    try expect(try Set([calls.next(), calls.next()]) == ["a", "b"], "not both have begun")
    var (c, d, e): (Zygote.Call?, Zygote.Call?, Zygote.Call?) =
        (try calls.begin("c"), try calls.begin("d"), try calls.begin("e", deadline: .milliseconds(100)))
    try expect(failure { _ = try calls.begin("x") } == .full(children: 2, waiting: 3), "not refused")
    let start = now()
    try expect(failure(of: e!) == .deadlineExceeded(.milliseconds(100)), "the deadline of one that waits")
    try expect(now() - start < 30, "nobody had to confirm it, as no child had it")
    e = try calls.begin("e")
    try expect(calls.zygote.status.waiting == 3, "\(calls.zygote.status)")
    try expect(!isReadable(calls.begun.ends.read, within: 0), "one too many has begun")

    calls.open("a")
    try expect(a.wait().bytes == Array("a".utf8), "another answer")
    try expect(try calls.next() == "c", "not the first that waited")
    b.cancel()
    try expect(failure(of: b) == .cancelled, "not cancelled")
    try expect(try calls.next() == "d", "not the second")
    withExtendedLifetime(c) {}
    c = nil
    try expect(try calls.next() == "e", "not the third")
    let (f, g, h) = (try calls.begin("f", deadline: .seconds(20)), try calls.begin("g"), try calls.begin("h"))
    g.cancel()
    try expect(failure(of: g) == .cancelled, "not cancelled while it waited")
    calls.open("d")
    _ = try d!.wait()
    d = nil
    try expect(try calls.next() == "f", "not the first of the others")
    calls.open("e")
    _ = try e!.wait()
    try expect(try calls.next() == "h", "the cancelled one is in the way")
    for (letter, call) in [("f", f), ("h", h)] as [(Character, Zygote.Call)] {
        calls.open(letter)
        _ = try call.wait()
    }
    let rest = calls.zygote.status
    try expect(rest.running == 0 && rest.waiting == 0, "\(rest)")
    try calls.finish()
}

private func drain() throws {
    let calls = try Gated(maxChildren: 1, maxWaiting: 2)
    let (a, b, c) = (try calls.begin("a"), try calls.begin("b"), try calls.begin("c"))
    calls.zygote.stop()
    try expect(failure { _ = try calls.begin("x") } == .shutDown, "one is begun while it drains")
    let tooEarly = calls.zygote.descriptor!.rawValue
    try expect(!isReadable(tooEarly, within: 0), "it has ended before the last call")
    for (letter, call) in [("a", a), ("b", b), ("c", c)] as [(Character, Zygote.Call)] {
        try expect(try calls.next() == letter, "not in their order")
        calls.open(letter)
        try expect(call.wait().bytes == [letter.asciiValue!], "another answer")
    }
    try calls.finish()
    try expect(calls.zygote.shutDownAndWait(timeout: .zero), "ended, it does not say so")
}

/// A drain that is not over in time: whoever runs or waits hears that it was shut down.
private func shutDownByForce() throws {
    let zygote = try startZygote(maxChildren: 1)
    let (running, child) = try zygote.begun()
    let waiting = try zygote.begin("echo")
    let begun = now()
    let byItself = zygote.shutDownAndWait(timeout: .milliseconds(100))
    try expect(!byItself && now() - begun > 0.09, "it did not wait")
    try expectGone([child])
    try expect(failure(of: running) == .shutDown, "the one that ran")
    try expect(failure(of: waiting) == .shutDown, "the one that waited")
    try expect(zygote.shutDownAndWait(timeout: .zero), "killed, it does not say so")
    zygote.stop(.kill)
    try zygote.expectFailure(.shutDown, from: "echo")
}

/// Whatever becomes of a call, it leaves nothing: neither here nor in the zygote.
private func manyCalls() throws {
    let zygote = try startZygote()
    let pid = zygote.pid!
    try zygote.awaitRest()
    let (ours, its) = (openDescriptors().count, openDescriptors(of: pid).count)
    for round in 0..<500 {
        try zygote.expectEcho()
        _ = try zygote.runAndWait("echo", [UInt8](repeating: 1, count: round == 0 ? 1 << 20 : 1))
        _ = try zygote.begin("hang")
        let call = try zygote.begin("hang")
        call.cancel()
        try expect(failure(of: call) == .cancelled, "not cancelled")
        try zygote.expectFailure(.threw(type: "Failure", description: "as asked"), from: "throw")
        if round % 10 == 0 {
            try expect(signal(in: failure { _ = try zygote.runAndWait("trap") }) == .illegalInstruction, "no trap")
            try zygote.expectFailure(.deadlineExceeded(.milliseconds(2)), from: "hang", deadline: .milliseconds(2))
        }
        try zygote.expectFailure(.ended(.exited(code: 3)), from: "exit", [3])
    }
    try zygote.awaitRest()
    try expect(openDescriptors().count == ours, "we had \(ours), and have \(openDescriptors())")
    try eventually("the zygote had \(its), and has others") { openDescriptors(of: pid).count == its }
    try expect(zygote.pid == pid, "it is another zygote")
    let statistics = zygote.status
    try expect(statistics.forks > 2000 && statistics.reaped > 2000, "\(statistics)")
    try zygote.finish()
}

/// More places than descriptors: who gets none is told, no call is lost, also while the zygote still has those of calls
/// that are dropped here.
private func shortOfDescriptors() throws {
    let zygote = try startZygote(maxChildren: 100)
    let pid = zygote.pid!
    var calls: [Zygote.Call] = []
    for _ in 0..<20 {
        calls = []
        var refused: ForkingError?
        while refused == nil {
            do { calls.append(try zygote.begin("hang")) } catch { refused = error }
        }
        guard refused?.errno == .tooManyOpenFiles else { throw Failure("\(refused!)") }
        try expect(calls.count > 10, "only \(calls.count) calls")
    }
    for call in calls {
        try expect(call.poll() == nil, "it has ended")
        call.cancel()
        try expect(failure(of: call) == .cancelled, "not cancelled")
    }
    calls = []
    try zygote.expectEcho()
    try expect(zygote.pid == pid, "it is another zygote")
    try zygote.finish()
}

/// A zygote that comes to nothing for a while: who does not fit into its queue waits, and gets his answer.
private func slowZygote() throws {
    let zygote = try startZygote(maxChildren: 5000)
    kill(zygote.pid!, SIGSTOP)
    var calls: [Zygote.Call] = []
    var refused: ForkingError?
    for _ in 0..<100 {
        calls = []  // nobody wants them any more, but they stand in the queue
        refused = nil
        while refused == nil, calls.count < 60 {  // more than there are descriptors for: they wait
            do { calls.append(try zygote.begin("echo", [1])) } catch { refused = error }
        }
        guard refused?.errno == .tooManyOpenFiles else { break }
    }
    try expect(refused == nil, "\(refused!), with \(calls.count) calls")
    kill(zygote.pid!, SIGCONT)
    for call in calls { try expect(try call.wait().bytes == [1], "no answer") }
    try zygote.finish()
}

/// A burst of calls: those that wait take no descriptors, of which this process can have 32.
private func waitingTakesNothing() throws {
    let zygote = try startZygote(maxChildren: 2, maxWaiting: 500)
    try zygote.awaitWarm()
    let hanging = try (0..<2).map { _ in try zygote.begin("hang") }
    let before = openDescriptors()
    let long = [UInt8](repeating: 1, count: 100_000)
    let calls = try (0..<500).map { try zygote.begin("echo", $0 == 7 ? long : [UInt8(truncatingIfNeeded: $0)]) }
    try expect(openDescriptors() == before, "they take \(openDescriptors().count - before.count)")
    let refused = try failure { _ = try zygote.begin("echo") }
    try expect(refused == .full(children: 2, waiting: 500), "\(refused)")
    hanging.forEach { $0.cancel() }
    for call in hanging { try expect(failure(of: call) == .cancelled, "not cancelled") }
    for (number, call) in calls.enumerated() {
        let bytes = try call.wait().bytes
        try expect(bytes == (number == 7 ? long : [UInt8(truncatingIfNeeded: number)]), "\(number): another answer")
    }
    try zygote.finish()
}

/// What they pass on is kept for them, but no more than a quarter of what there is.
private func waitingWithDescriptors() throws {
    let zygote = try startZygote(maxChildren: 1, maxWaiting: 500)
    try zygote.awaitWarm()
    let (hanging, _) = try zygote.begun()
    let channel = try Channel()
    let end = FileDescriptor(rawValue: channel.ends.write)
    let before = openDescriptors().count
    var calls: [Zygote.Call] = []
    var refused: ForkingError?
    while refused == nil {
        do { calls.append(try zygote.begin("echo", [1], descriptors: [end], expecting: 1)) } catch { refused = error }
    }
    try expect(refused == .full(children: 1, waiting: 8) && calls.count == 8, "\(refused!), \(calls.count) calls")
    try expect(openDescriptors().count == before + 8, "others are left")
    channel.closeWrite()  // that is the caller's right
    calls.removeLast()  // it does not get there
    calls.removeLast().cancel()
    try expect(openDescriptors().count == before - 1 + 6, "what they had is left")
    hanging.cancel()
    _ = try failure(of: hanging)
    for call in calls {
        let came = try call.wait().takeDescriptors()
        _ = try came[0].writeAll([42])
        try came[0].close()
        try expect(try channel.hear() == 42, "another pipe came")
    }
    try expect(try channel.hear() == nil, "somebody keeps it")
    channel.closeRead()
    try zygote.finish()
}

/// A loop of one's own has something to poll, from the call's first moment on.
private func waitingPolled() throws {
    let zygote = try startZygote(maxChildren: 1, maxWaiting: 2)
    let (hanging, _) = try zygote.begun()
    let waiting = try zygote.begin("echo", [7])
    let descriptor = waiting.descriptor.rawValue
    try expect(descriptor >= 0 && waiting.descriptor.rawValue == descriptor, "it is not the same")
    try expect(try !isReadable(descriptor, within: 0) && waiting.poll() == nil, "an answer, without a place")
    let cancelled = try zygote.begin("echo")
    let other = cancelled.descriptor.rawValue
    cancelled.cancel()
    try expect(isReadable(other, within: 20), "its end does not show")
    try expect(failure(of: cancelled) == .cancelled, "not cancelled")
    hanging.cancel()
    _ = try failure(of: hanging)
    try expect(isReadable(descriptor, within: 20), "its answer does not show")
    try expect(waiting.poll()?.bytes == [7], "another answer")
    try zygote.finish()
}

/// Who waits for want of descriptors gets a place when there are some again, although no call has ended meanwhile.
private func shortageEnds() throws {
    let zygote = try startZygote(maxChildren: 1, maxWaiting: 2, warm: 0)  // which need no descriptors
    let hanging = try zygote.begin("hang")
    let waiting = try zygote.begin("echo", [7])
    _ = hanging.descriptor  // polled, it stays open as long as the call is there
    var taken: [Int32] = []
    while case let next = dup(2), next >= 0 { taken.append(next) }
    hanging.cancel()
    try expect(failure(of: hanging) == .cancelled, "not cancelled")
    try expect(waiting.poll() == nil && zygote.status.running == 0, "it has a place")
    for descriptor in taken { close(descriptor) }
    try expect(waiting.wait().bytes == [7], "another answer")
    try zygote.finish()
}
