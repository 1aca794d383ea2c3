// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Testing

@testable import Forking

@Suite("Waiting for descriptors")
struct WaitingTests {
    @Test("each that is readable has its bit, and one that is negative none")
    func several() throws {
        let first = try DescriptorPair()
        let second = try DescriptorPair()
        let descriptors: InlineArray<4, Int32> = [first.ours.rawValue, -1, second.ours.rawValue, first.theirs.rawValue]
        let before = try waitUntilReadable(descriptors, atMost: .zero)
        #expect(before == 0)
        send(second.theirs.rawValue, [1], 1, 0)
        let one = try waitUntilReadable(descriptors)
        #expect(one == 0b100)
        send(first.ours.rawValue, [1], 1, 0)
        let two = try waitUntilReadable(descriptors, atMost: .seconds(10))
        #expect(two == 0b1100)
    }

    @Test("a time that is over, or none, is not waited for")
    func past() throws {
        for time: Duration in [.zero, .seconds(-1), .seconds(Int64.min)] {
            let isReady = try waitUntilReadable(-1, atMost: time)
            #expect(!isReady)
        }
    }

    @Test("more than eight are refused")
    func most() {
        let descriptors = InlineArray<9, Int32>(repeating: -1)
        #expect(throws: ForkingError.system(call: "ppoll", .invalidArgument)) {
            _ = try waitUntilReadable(descriptors, atMost: .zero)
        }
    }

    @Test("that the other end hangs up is seen behind what it had sent, which alone is no such thing")
    func hangUp() throws {
        func sendAndHangUp() throws -> (copy: Int32, hasHungUp: Bool) {
            let pair = try DescriptorPair()
            send(pair.theirs.rawValue, [1], 1, 0)
            let hasHungUp = try waitUntilHungUp(pair.ours.rawValue, atMost: .zero)
            return (fcntl(pair.ours.rawValue, F_DUPFD_CLOEXEC, 0), hasHungUp)
        }
        let (copy, hadHungUp) = try sendAndHangUp()
        let end = OwnedDescriptor(copy)
        #expect(!hadHungUp)
        let hasHungUp = try waitUntilHungUp(end.rawValue, atMost: .seconds(10))
        #expect(hasHungUp)
    }
}
