// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// Lends listeners to programs, as inetd(8) does with `wait`. While such a program is alive, the server does not poll
/// its listener.
extension ForkingServer {
    /// Parent: a client or a datagram has arrived at a listener. Executes a program on that listener.
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

    /// Makes the listener blocking: a program written for inetd waits in accept(2) itself.
    private static func letWait(on listener: Int32) {
        let flags = fcntl(listener, F_GETFL)
        if flags >= 0, flags & O_NONBLOCK != 0 { _ = fcntl(listener, F_SETFL, flags & ~O_NONBLOCK) }
    }

    /// Polls the listeners again whose programs have ended.
    func takeBack(_ now: Instant) {
        for listener in lent.due(at: now) {
            do throws(ForkingError) {
                try listeners.watch(listener)
            } catch {
                lent.rest(listener, until: now + Admission.pause)  // epoll_ctl(2) has failed for lack of memory
            }
        }
    }
}
