// SPDX-License-Identifier: Apache-2.0
//
// A program that is started again to be a zygote, as it begins: before it knows whether it is one.

import CForkCore
import Glibc
import SystemPackage

extension ZygoteClient {
    /// In a process that was started to be the zygote of its parent: the socket to it. What anybody else put into the
    /// variable is not believed. If the parent has ended meanwhile, so does this: it would be a second host.
    static func inheritedControl() -> Int32? {
        guard let (host, _) = inheritance.take(), Inheritance.adopt(controlDescriptor),
            socketType(of: controlDescriptor) == Int32(SOCK_SEQPACKET.rawValue)
        else { return nil }
        guard host != getppid() else { return controlDescriptor }
        // A host that has just been killed closes its end, if perhaps a moment later; somebody else's socket stays as
        // it is.
        if (try? waitUntilHungUp(controlDescriptor, atMost: .seconds(1))) == true { forkcore_exit(0) }
        return nil
    }
}
