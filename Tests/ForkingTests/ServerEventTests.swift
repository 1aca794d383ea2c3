// SPDX-License-Identifier: Apache-2.0

import SystemPackage
import Testing

@testable import Forking

@Suite("Events of a server")
struct ServerEventTests {
    @Test("an event is one line, and trouble is known as such")
    func events() throws {
        let peer = try SocketAddress(parsing: "[::1]:5")
        let refusal = ForkingError.system(call: "fork", .resourceTemporarilyUnavailable)
        let crash = Forking.ExitStatus.signaled(.segmentationFault, dumpedCore: false)
        let pipe = Forking.ExitStatus.signaled(.brokenPipe, dumpedCore: false)
        let events: [(ForkingServer.Event, text: String, isTrouble: Bool)] = [
            (.serving([peer, peer]), "serving on [::1]:5, [::1]:5", false),
            (.forked(12, peer: peer), "child 12, peer [::1]:5: forked", false),
            (.rejected(peer), "refused [::1]:5", false),
            (.verifyFailed(peer, refusal), "refused [::1]:5, as the verify hook failed: \(refusal)", true),
            (.forkFailed(peer, refusal), "client [::1]:5 was not served: \(refusal)", true),
            (.shortage(refusal), "new clients wait until this has passed: \(refusal)", true),
            (.stopping(.drain), "stopping: draining", false),
            (.stopping(.terminate), "stopping: terminating the children that are left", false),
            (.stopping(.kill), "stopping: killing the children that are left", false),
            (.abandoned([3, 4]), "these children are left alive, as they could not be ended: [3, 4]", true),
            (
                .trouble(.held(12, peer: peer)),
                "child 12, peer [::1]:5: has ended, but cannot be reaped, because a debugger or tracer holds it", true
            ),
            (
                .trouble(.notPermitted(12, peer: nil)),
                "child 12: cannot be ended, because it runs as another user: kill: Operation not permitted", true
            ),
            (.ended(.made(.exited(code: 0))), ChildExit.made(.exited(code: 0)).description, false),
            (.ended(.made(.exited(code: 1))), ChildExit.made(.exited(code: 1)).description, false),
            (.ended(.made(.exited(code: 2))), ChildExit.made(.exited(code: 2)).description, true),
            (.ended(.made(.unknown)), ChildExit.made(.unknown).description, true),
            (.ended(.made(crash)), ChildExit.made(crash).description, true),
            (.ended(.made(crash, .timeout)), ChildExit.made(crash, .timeout).description, true),
            (.ended(.made(crash, .stopped)), ChildExit.made(crash, .stopped).description, false),
            // Its client left first.
            (.ended(.made(pipe)), ChildExit.made(pipe).description, false),
        ]
        for (event, text, isTrouble) in events {
            #expect(event.description == text)
            #expect(event.isTrouble == isTrouble, "\(text)")
        }
    }
}
