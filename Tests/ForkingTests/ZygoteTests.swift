// SPDX-License-Identifier: Apache-2.0

import Testing

@testable import Forking

@Suite("Zygote: handlers")
struct ZygoteHandlerTests {
    @Test("a handler is a function, which a test calls as any other") func function() {
        func reversed(_ request: Zygote.Request) -> Zygote.Reply { Zygote.Reply(request.bytes.reversed()) }
        #expect(reversed(Zygote.Request([1, 2, 3])).bytes == [3, 2, 1])
    }

    @Test("each is found by its name, and nothing by another") func names() {
        let long = String(repeating: "x", count: 64)
        let all = ["a", "ab", "b", "\u{e4}", "a\0", long, String(long.dropLast())]
        var handlers = Zygote.Handlers()
        for name in all { handlers.answer(name) { Zygote.Reply($0.bytes) } }
        let names = HandlerNames(handlers.all)
        func number(of name: String) -> Int? { Array(name.utf8).withUnsafeBufferPointer { names.number(of: $0) } }
        #expect(all.map(number) == Array(all.indices))
        #expect(["c", "abc", "", "x", "a\0\0"].allSatisfy { number(of: $0) == nil })
    }
}

@Suite("Zygote: calls")
struct ZygoteCallTests {
    @Test("0 bytes to 1 MB come back") func payloads() throws { try pass("zygote-payloads") }
    @Test("256 MiB come back") func largePayload() throws { try pass("zygote-large-payload") }
    @Test("a reply longer than it may be is refused", arguments: ["zygote-long-reply", "zygote-long-reply-inline"])
    func longReply(_ scenario: String) throws { try pass(scenario) }
    @Test("descriptors are passed on and back") func descriptors() throws { try pass("zygote-descriptors") }
    @Test("252 of them are, 253 are refused") func many() throws { try pass("zygote-many-descriptors") }
    @Test("each failure is told as what it was") func failures() throws { try pass("zygote-failures") }
    @Test("a call that is dropped has its child killed") func dropped() throws { try pass("zygote-dropped") }
    @Test("a connection is served to its end") func handOff() throws { try pass("zygote-hand-off") }
    @Test("how it ended otherwise is told") func handOffFailures() throws { try pass("zygote-hand-off-failures") }
    @Test("that of a client which has gone is handed off, with what it sent") func reset() throws {
        try pass("zygote-hand-off-reset")
    }
    @Test("an answer that is cut off is told by its child's end") func cut() throws { try pass("zygote-cut-answer") }
    @Test("what a child printed is out before its answer") func printed() throws { try pass("zygote-printed") }
}

@Suite("Zygote: more calls than places")
struct ZygoteQueueTests {
    @Test("who waits longest is served first, whatever frees a place") func order() throws { try pass("zygote-order") }
    @Test("a drain serves who runs and who waits") func drain() throws { try pass("zygote-drain") }
    @Test("a drain that takes too long is ended by force") func force() throws { try pass("zygote-shut-down-by-force") }
    @Test("thousands of calls leave no descriptor") func manyCalls() throws { try pass("zygote-many-calls") }
    @Test("no call is lost for want of descriptors") func short() throws { try pass("zygote-short-of-descriptors") }
    @Test("a zygote that is slow loses none, either") func slow() throws { try pass("zygote-slow") }
    @Test("those that wait take no descriptors") func none() throws { try pass("zygote-waiting-takes-nothing") }
    @Test("what they pass on is kept, and bounded") func kept() throws { try pass("zygote-waiting-with-descriptors") }
    @Test("one that waits can be polled") func polled() throws { try pass("zygote-waiting-polled") }
    @Test("a shortage is over when it is") func shortage() throws { try pass("zygote-shortage-ends") }
}

@Suite("Zygote: its children, and its start")
struct ZygoteChildTests {
    @Test("a child has what is its own") func surroundings() throws { try pass("zygote-child") }
    @Test("signals end children, not the zygote") func signals() throws { try pass("zygote-signals") }
    @Test("nothing that a child has started outlives it") func leaves() throws { try pass("zygote-leaves-nothing") }
    @Test("what is done once is there for each child") func prewarm() throws { try pass("zygote-prewarm") }
    @Test("a lock that was taken then still works") func mutex() throws { try pass("zygote-prewarmed-mutex") }
    @Test("one that does not get ready is told of, and gone") func notReady() throws { try pass("zygote-not-ready") }
    @Test("what cannot be is refused") func refusals() throws { try pass("zygote-refusals") }
    @Test("a variable that somebody else has set is not believed", arguments: ["text", "alone", "pipe", "parent"])
    func variable(_ what: String) throws { try pass("zygote-variable-" + what) }
    @Test("each limit holds, for its call") func limits() throws { try pass("zygote-limits") }
    @Test("without a network, a connection that was given leads to nobody else")
    func givenConnections() throws { try pass("zygote-given-connections") }
    @Test("a limit that cannot be had is told") func limitRefused() throws { try pass("zygote-limit-refused") }
    @Test("what a hostile child sends is survived") func hostile() throws { try pass("zygote-hostile-child") }
    @Test("descriptors that nobody expects are closed, or the reply's") func unexpected() throws {
        try pass("zygote-unexpected-descriptors")
    }
    @Test("to close what a child sends holds nobody up") func lingering() throws {
        try pass("zygote-lingering-descriptors")
    }
    @Test(
        "a child that has left its group ends with its call",
        arguments: ["zygote-hostile-group", "zygote-hostile-group-traced"])
    func group(_ scenario: String) throws { try pass(scenario) }
    @Test("a child that a tracer of its own holds has ended for its call") func held() throws {
        try pass("zygote-held-child")
    }
    @Test("processes that a child makes the zygote's are reaped") func strangers() throws {
        try pass("zygote-strangers")
    }
    @Test("so are the numbers that it sends") func numbers() throws { try pass("zygote-hostile-numbers") }
}

@Suite("Zygote: its end, and its host's")
struct ZygoteLifeTests {
    @Test("killed, it loses what it had, and who waited is served by the next") func killed() throws {
        try pass("zygote-killed")
    }
    @Test("its end shows at its descriptor") func watched() throws { try pass("zygote-watched") }
    @Test("those that die at once come at growing intervals") func backOff() throws { try pass("zygote-back-off") }
    @Test("stopped, it is replaced") func stopped() throws { try pass("zygote-stopped") }
    @Test("nothing outlives a host that is killed") func hostKilled() throws { try pass("zygote-host-killed") }
    @Test("nothing outlives a host that traps") func hostTraps() throws { try pass("zygote-host-traps") }
    @Test("nothing outlives a host that exits") func hostExits() throws { try pass("zygote-host-exits") }
}
