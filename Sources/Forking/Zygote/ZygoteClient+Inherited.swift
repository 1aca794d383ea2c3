// SPDX-License-Identifier: Apache-2.0
//
// A program at its start, before it knows whether it was executed to replace a zygote.

import CForkCore
import Glibc
import SystemPackage

extension ZygoteClient {
    /// In a process that was executed to be its parent's zygote: the socket to that parent. Nil otherwise, whatever the
    /// environment variable says. If the parent has ended meanwhile, this process exits, because it would become a
    /// second host.
    static func inheritedControl() -> Int32? {
        guard let (host, _) = inheritance.take(), Inheritance.adopt(controlDescriptor),
            socketType(of: controlDescriptor) == Int32(SOCK_SEQPACKET.rawValue)
        else { return nil }
        guard host != getppid() else { return controlDescriptor }
        // A killed host closes its end, if perhaps a moment later. A socket of any other process stays open.
        if (try? waitUntilHungUp(controlDescriptor, atMost: .seconds(1))) == true { forkcore_exit(0) }
        return nil
    }
}
