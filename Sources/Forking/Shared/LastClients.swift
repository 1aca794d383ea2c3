// SPDX-License-Identifier: Apache-2.0
//
// Parent and worker.

import CForkCore
import Glibc
import SystemPackage

/// Who waits at a pool's listeners as it stops. The parent takes them in, so that nobody else need be let in for their
/// sake, and passes them on; whichever worker has done with its own takes the next.
struct LastClients: ~Copyable {
    private var ours: ParentDescriptor?
    private var workers: ParentDescriptor?
    private var held = HeldClients()

    init() throws(ForkingError) {
        let pair = try DescriptorPair()
        ours = ParentDescriptor(pair.ours.release())
        workers = ParentDescriptor(pair.theirs.release())
    }

    /// Where each worker finds them; -1 when there will be none.
    var descriptor: Int32 { workers?.rawValue ?? -1 }

    /// Parent: takes in all that wait.
    mutating func take(at listeners: [SharedListener]) { held.takeWaiting(at: listeners, leaving: 16) }

    /// Parent: passes on as many as there is room for; after the last, nobody will come.
    ///
    /// - Returns: whether some are left, for whom there may be room in a moment.
    mutating func passOn() -> Bool {
        guard let ours else { return false }
        held.handOver { descriptor, peer in
            let code = withUnsafeBytes(of: peer) {
                forkcore_hand_over(ours.rawValue, descriptor.rawValue, $0.baseAddress, $0.count)
            }
            return code == 0
        }
        if held.isEmpty { forkcore_finish_sending(ours.rawValue) }
        return !held.isEmpty
    }

    /// Parent: those whom no worker has taken are sent away, as soon as none could.
    mutating func close() {
        held.closeAll()
        if let ours { shutdown(ours.rawValue, Int32(SHUT_RDWR)) }
        (ours, workers) = (nil, nil)
    }

    /// Worker: the next one, waited for until there will be none.
    static func next(from channel: Int32) -> (descriptor: FileDescriptor, peer: SocketAddress)? {
        var descriptor: Int32 = -1
        var peer = SocketAddress { (_, _) in }
        let code = withUnsafeMutableBytes(of: &peer) {
            forkcore_take_over(channel, &descriptor, $0.baseAddress, $0.count)
        }
        return code == 0 ? (FileDescriptor(rawValue: descriptor), peer) : nil
    }
}
