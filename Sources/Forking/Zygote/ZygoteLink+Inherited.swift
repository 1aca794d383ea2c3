// SPDX-License-Identifier: Apache-2.0
//
// A program that is started again to be a zygote, as it begins: before it knows whether it is one.

import CForkCore
import Glibc
import SystemPackage

extension ZygoteLink {
    /// In a process that was started to be the zygote of its parent: the socket to it. What anybody else put into the variable
    /// is not believed. If the parent has ended meanwhile, so does this: it would be a second host.
    static func inheritedControl() -> Int32? {
        guard let value = getenv(variable) else { return nil }
        defer { unsetenv(variable) }
        var type: Int32 = 0
        var length = socklen_t(MemoryLayout<Int32>.size)
        guard let host = ProcessID(String(cString: value)), fcntl(place, F_SETFD, FD_CLOEXEC) == 0,
            getsockopt(place, SOL_SOCKET, SO_TYPE, &type, &length) == 0, type == Int32(SOCK_SEQPACKET.rawValue)
        else { return nil }
        guard host != getppid() else { return place }
        // A host that has just been killed closes its end, if perhaps a moment later; somebody else's socket stays as it is.
        if (try? waitUntilHungUp(place, atMost: .seconds(1))) == true { forkcore_exit(0) }
        return nil
    }
}
