// SPDX-License-Identifier: Apache-2.0

import SystemPackage
import Testing

@testable import Forking

extension ChildExit {
    /// That of a made-up child.
    static func made(
        _ status: Forking.ExitStatus, _ reason: ChildExit.Reason = .own, peer: String? = "127.0.0.1:50000",
        execError: Errno? = nil, isLeftover: Bool = false
    ) -> ChildExit {
        ChildExit(
            pid: 4711, peer: peer.map { try! SocketAddress(parsing: $0) }, status: status, reason: reason,
            duration: .milliseconds(12), isLeftover: isLeftover, usage: nil, execError: execError)
    }
}

@Suite("How a child ended")
struct ChildExitTests {
    @Test("an exit status is told in words")
    func statuses() {
        #expect(Forking.ExitStatus.exited(code: 0).isSuccess && !Forking.ExitStatus.exited(code: 1).isSuccess)
        #expect(
            !Forking.ExitStatus.signaled(.kill, dumpedCore: false).isSuccess && !Forking.ExitStatus.unknown.isSuccess)
        #expect(Forking.ExitStatus.exited(code: 7).description == "exited with status 7")
        #expect(Forking.ExitStatus.signaled(.segmentationFault, dumpedCore: false).description == "killed by SIGSEGV")
        #expect(Forking.ExitStatus.signaled(.abort, dumpedCore: true).description == "killed by SIGABRT (core dumped)")
        #expect(
            Forking.ExitStatus.unknown.description
                == "ended, and its exit status is unknown, because other code in this process waited for it")
    }

    @Test("an end says who, whom it served, how and after how long")
    func exits() {
        let crash = Forking.ExitStatus.signaled(.illegalInstruction, dumpedCore: false)
        #expect(ChildExit.made(crash).description == "child 4711, peer 127.0.0.1:50000: killed by SIGILL after 0.012 s")
        #expect(
            ChildExit.made(crash, .timeout, peer: nil, isLeftover: true).description
                == "process 4711, which a child left: killed by SIGILL at its time limit after 0.012 s")
        #expect(
            ChildExit.made(.exited(code: 3), peer: nil).description == "child 4711: exited with status 3 after 0.012 s")
        #expect(
            ChildExit.made(crash, .timeout, peer: nil).description.contains(
                "killed by SIGILL at its time limit after"))
        #expect(
            ChildExit.made(crash, .stopped, peer: nil).description.contains(
                "killed by SIGILL on request after"))
        #expect(
            ChildExit.made(.exited(code: 127), peer: nil, execError: .noSuchFileOrDirectory).description
                == "child 4711: its program cannot be executed: No such file or directory")
        #expect(ChildExit.made(.exited(code: 0)).isSuccess && !ChildExit.made(.exited(code: 0), .timeout).isSuccess)
    }
}
