// SPDX-License-Identifier: Apache-2.0

import Glibc
import Testing

@testable import Forking

/// One after the other, each with a variable of its own: there is one environment for all threads.
@Suite("What one image of a program leaves to the next", .serialized)
struct InheritanceTests {
    private let inheritance = Inheritance("FORKING_TEST_INHERITANCE")

    private func left(_ value: String) -> (pid: ProcessID, text: String)? {
        setenv(inheritance.name, value, 1)
        defer { #expect(getenv(inheritance.name) == nil, "programs that are started here have it") }
        return inheritance.take()
    }

    @Test("it is there once, for the process that left it", arguments: ["", "a text", " two  spaces ", "a=b"])
    func ownText(text: String) {
        inheritance.leave(text)
        #expect(getenv(inheritance.name) != nil)
        #expect(inheritance.takeOwn() == text)
        #expect(inheritance.takeOwn() == nil && getenv(inheritance.name) == nil)
    }

    @Test("it says whose it is, and is of no use to another")
    func others() {
        let found = left("1 a text")
        #expect(found?.pid == 1 && found?.text == "a text")
        setenv(inheritance.name, "1 a text", 1)
        #expect(inheritance.takeOwn() == nil && getenv(inheritance.name) == nil)
    }

    @Test("a program that is started gets it as a variable, which says the same")
    func variable() {
        #expect(inheritance.variable(4711) == "FORKING_TEST_INHERITANCE=4711")
        #expect(inheritance.variable(4711, "a text") == "FORKING_TEST_INHERITANCE=4711 a text")
    }

    @Test("what makes no sense is thrown away", arguments: ["", " ", "x", " 1 a", "1x a", "99999999999 a", "a 1"])
    func nonsense(value: String) { #expect(left(value) == nil) }

    @Test("a descriptor that is not open was not left")
    func descriptors() throws {
        let pair = try DescriptorPair()
        let ours = pair.ours.rawValue
        #expect(fcntl(ours, F_SETFD, 0) == 0 && Inheritance.adopt(ours) && fcntl(ours, F_GETFD) == FD_CLOEXEC)
        #expect(!Inheritance.adopt(-1))
        #expect(socketType(of: ours) == Int32(SOCK_SEQPACKET.rawValue) && socketType(of: -1) == nil)
    }
}
