// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Testing

@testable import Forking

@Suite("A call's context as bytes")
struct CallContextTests {
    private func texts(_ bytes: [UInt8]) -> [String: String] { CallContext.texts(in: bytes[...]) }

    @Test("any texts come back") func roundTrip() {
        for context in [
            [:], ["": ""], ["a": "b"], ["traceparent": "00-1-2-01", "baggage": "k=v,ü=ß", "\0": "\n\0", "empty": ""],
            ["long": String(repeating: "x", count: 5000)],
        ] {
            let encoded = CallContext(context)
            #expect(texts(encoded.bytes) == context && encoded.leftOut == 0)
        }
    }

    @Test("of too many, the longest are left out") func cut() {
        let room = CallContext.longest - 4 - 1
        func text(_ count: Int) -> String { String(repeating: "x", count: count) }
        #expect(CallContext(["a": text(room)]).bytes.count == CallContext.longest)
        #expect(CallContext(["a": text(room + 1)]).leftOut == 1)
        #expect(CallContext(["a": text(1 << 20)]).bytes == [])
        let cut = CallContext(["baggage": text(8000), "traceparent": text(55), "more": text(200)])
        #expect(cut.leftOut == 1)
        #expect(texts(cut.bytes) == ["traceparent": text(55), "more": text(200)])
        let many = CallContext(Dictionary(uniqueKeysWithValues: (0..<4000).map { ("\($0)", "") }))
        #expect(many.bytes.count <= CallContext.longest && texts(many.bytes).count == 4000 - many.leftOut)
    }

    @Test("bytes that are none have the texts before the first that is cut short") func malformed() {
        let whole = CallContext(["a": "bc"]).bytes + CallContext(["de": "fgh"]).bytes
        for count in whole.indices {
            let found = texts(Array(whole.prefix(count)))
            #expect(found == (count < 7 ? [:] : ["a": "bc"]))
        }
        #expect(texts([1, 0, 2, 0, 0xff, 0xc3, 0x28]) == ["\u{fffd}": "\u{fffd}("])
        var random = SystemRandomNumberGenerator()
        for _ in 0..<2000 {
            let count = Int.random(in: 0...40, using: &random)
            let bytes = (0..<count).map { _ in UInt8.random(in: 0...9, using: &random) }
            _ = CallContext.texts(in: bytes[...])
            _ = CallContext.texts(in: bytes.dropFirst(3))
        }
    }

    /// The bytes on the channel, and what the child makes of them.
    private func passed(_ request: CallMessage) throws -> (count: Int, received: CallMessage) {
        let pair = try DescriptorPair()
        try request.send(over: pair.ours.rawValue)
        var count = 0
        #expect(forkcore_message_size(pair.theirs.rawValue, &count) == 0)
        return (count, try #require(try CallMessage.receiveRequest(over: pair.theirs.rawValue)))
    }

    @Test(
        "no context adds no byte to a request, and no lead is taken for bytes, nor copied before many",
        arguments: [0, 1, 24_000, CallMessage.longestInline, 1 << 20])
    func requests(_ size: Int) throws {
        let bytes = (0..<size).map { UInt8(truncatingIfNeeded: $0) }
        let inline = size <= CallMessage.longestInline ? size : 0
        var request = CallMessage(.request, bytes)
        request.add(CallContext([:]))
        let plain = try passed(request)
        #expect(plain.count == MemoryLayout<CallMessage.Head>.size + inline)
        #expect(plain.received.bytes == bytes && plain.received.context == [:])

        let peer: [UInt8] = [9, 9, 9]
        let context = ["a": String(repeating: "b", count: 8000), "c": "d"]
        request.lead = peer
        request.head.peer = 3
        request.add(CallContext(context))
        let (count, received) = try passed(request)
        #expect(count <= MemoryLayout<CallMessage.Head>.size + CallMessage.longestInline)
        #expect(received.bytes == bytes && received.context == context && Array(received.lead.prefix(3)) == peer)
    }

    @Test("a lead that is longer than the message is refused") func lead() throws {
        var request = CallMessage(.request, [1, 2, 3])
        request.head.context = 4
        #expect(throws: ForkingError.self) { try passed(request) }
    }
}
