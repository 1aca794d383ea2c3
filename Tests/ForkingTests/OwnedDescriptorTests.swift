// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage
import Testing

@testable import Forking

@Suite("Descriptors that are closed with their owner")
struct OwnedDescriptorTests {
    /// Waited for: a test that forks just now has copies of all that is open, for a moment.
    private func isOtherEndClosed(_ end: Int32) throws -> Bool {
        try waitUntilReadable(end, atMost: .seconds(10)) && forkcore_hung_up(end)
    }

    @Test("what is sent at one end of a pair is read at the other")
    func connected() throws {
        let pair = try DescriptorPair()
        let (ours, theirs) = (pair.ours.rawValue, pair.theirs.rawValue)
        var byte: UInt8 = 0
        #expect(send(theirs, [7], 1, 0) == 1 && recv(ours, &byte, 1, 0) == 1 && byte == 7)
        #expect(fcntl(ours, F_GETFD) == FD_CLOEXEC && fcntl(theirs, F_GETFD) == FD_CLOEXEC)
    }

    @Test("both ends are closed as a pair goes away")
    func closed() throws {
        func copy() throws -> Int32 {
            let pair = try DescriptorPair()
            return fcntl(pair.ours.rawValue, F_DUPFD_CLOEXEC, 0)
        }
        let end = try OwnedDescriptor(copy())
        #expect(try isOtherEndClosed(end.rawValue))
    }

    @Test("one that was released stays open")
    func released() throws {
        let pair = try DescriptorPair()
        func release() -> Int32 {
            let copy = OwnedDescriptor(fcntl(pair.ours.rawValue, F_DUPFD_CLOEXEC, 0))
            return copy.release()
        }
        let copy = release()
        defer { close(copy) }
        var byte: UInt8 = 0
        #expect(send(pair.theirs.rawValue, [7], 1, 0) == 1 && recv(copy, &byte, 1, 0) == 1 && byte == 7)
    }

    @Test("what cannot be opened is an error with the call's name")
    func refused() {
        #expect(throws: ForkingError.system(call: "pipe2", .tooManyOpenFiles)) {
            _ = try DescriptorPair("pipe2") { _, _ in EMFILE }
        }
        #expect(throws: ForkingError.system(call: "eventfd", .noMemory)) {
            _ = try OwnedDescriptor("eventfd") { _ in ENOMEM }
        }
    }
}
