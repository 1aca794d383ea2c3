// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// Programs that are given a listener itself, rather than one client of it, as inetd does where `wait` is said. While
/// such a program is alive, its listener is its own affair.
extension ForkingServer {
    /// Parent: somebody has come to a listener. A program gets it.
    func lend(to program: (SocketAddress) throws(ForkingError) -> Program) throws(ForkingError) {
        let listener = try listeners.next()
        guard let address = listeners.all.first(where: { $0.descriptor == listener })?.address else { return }
        guard !forkcore_is_shut_down(listener) else { throw .system(call: "accept", .invalidArgument) }
        let child: Program
        do throws(ForkingError) {
            child = try program(address)
        } catch {
            listeners.leave(listener)
            lent.rest(listener, until: .now + LentListeners.pause)
            return tell(.forkFailed(address, error))
        }
        Self.letWait(on: listener)
        let pid = try children.spawn(
            child, on: FileDescriptor(rawValue: listener), peer: address, options: childOptions)
        listeners.leave(listener)
        lent.lend(listener, to: pid)
        tell(.forked(pid, peer: address))
    }

    /// A program that was written for inetd waits in accept(2) itself.
    private static func letWait(on listener: Int32) {
        let flags = fcntl(listener, F_GETFL)
        if flags >= 0, flags & O_NONBLOCK != 0 { _ = fcntl(listener, F_SETFL, flags & ~O_NONBLOCK) }
    }

    /// Those whose programs have ended are looked after again.
    func takeBack(_ now: Instant) {
        for listener in lent.due(at: now) {
            do throws(ForkingError) {
                try listeners.watch(listener)
            } catch {
                lent.rest(listener, until: now + Admission.pause)  // no memory: epoll_ctl(2)
            }
        }
    }
}
