// SPDX-License-Identifier: Apache-2.0
//
// Parent and worker.

import CForkCore
import Glibc
import SystemPackage

/// The clients that wait at a pool's listeners when the pool stops. The parent accepts them, so that it can close the
/// listeners, and passes them to workers: each worker that has finished its own clients takes the next one.
struct LastClients: ~Copyable {
    private var ours: ParentDescriptor?
    private var workers: ParentDescriptor?
    private var held = HeldClients()

    init() throws(ForkingError) {
        let pair = try DescriptorPair()
        ours = ParentDescriptor(pair.ours.release())
        workers = ParentDescriptor(pair.theirs.release())
    }

    /// The descriptor from which workers receive them; -1 when there are none left.
    var descriptor: Int32 { workers?.rawValue ?? -1 }

    /// Parent: accepts all waiting clients.
    mutating func take(at listeners: [SharedListener]) { held.takeWaiting(at: listeners, leaving: 16) }

    /// Parent: passes on as many clients as the socket has room for. After the last, workers see end of file.
    ///
    /// - Returns: whether clients are left, for which there may be room in a moment.
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

    /// Parent: closes the connections of clients that no worker has taken, when no worker is left to take them.
    mutating func close() {
        held.closeAll()
        if let ours { shutdown(ours.rawValue, Int32(SHUT_RDWR)) }
        (ours, workers) = (nil, nil)
    }

    /// Worker: returns the next client, waiting until one comes; nil at end of file.
    static func next(from channel: Int32) -> (descriptor: FileDescriptor, peer: SocketAddress)? {
        var descriptor: Int32 = -1
        var peer = SocketAddress { (_, _) in }
        let code = withUnsafeMutableBytes(of: &peer) {
            forkcore_take_over(channel, &descriptor, $0.baseAddress, $0.count)
        }
        return code == 0 ? (FileDescriptor(rawValue: descriptor), peer) : nil
    }
}
