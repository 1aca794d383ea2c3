// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// The replies of a datagram server's children. The parent sends them on a socket that no child has: so a child cannot
/// read other clients' datagrams, shut the socket down, connect it to a client, or reply in another child's name.
///
/// Parent. The child's half is `askParent` in Datagram.swift. Each child has a channel of its own. It sends a reply there, and receives the errno of sending
/// it: so a child sends no faster than the parent can. Each collection takes one reply of each child.
final class Replies {
    /// The state of one child's channel. It changes with each client, so it is kept in memory that is not copied to
    /// children.
    private struct PendingReply {
        let channel: Int32
        /// The socket that received the datagram: the copy that `Replies` owns.
        let socket: Int32
        let peer: SocketAddress
        let destination: forkcore_destination
    }

    /// The server's sockets by their descriptors, and copies of them, which stay open while the server drains.
    private var sockets: [(servers: Int32, copy: ParentDescriptor)] = []
    private let poll: ParentDescriptor
    private let source: ReapSource
    private let owner = forkcore_process()
    private let pending: ParentArray<PendingReply>
    private let pids: ParentArray<ProcessID>
    private let buffer: ParentArray<UInt8>
    /// The maximum length of a reply: net.core.wmem_max, as set up by default.
    private static let longest = 1 << 18
    /// The channel for the next child: the parent's end, and the child's.
    private var next: (ours: Int32, childs: Int32)?
    /// All indices of `pending` that were ever in use are below this.
    private var end = 0
    /// Whether the kernel lets children attach descriptors to their replies.
    private var mayHoldRights = false

    init(for children: ChildTable) throws(ForkingError) {
        poll = try ParentDescriptor("epoll_create1", forkcore_poll_open)
        source = children.source
        pending = try ParentArray(count: children.slots.capacity)
        pids = try ParentArray(count: children.slots.capacity)
        buffer = try ParentArray(count: Self.longest)
        try source.add(self, poll.rawValue)
    }

    deinit {
        guard owner == forkcore_process() else { return }
        source.remove(self, poll.rawValue)
        for index in 0..<end where pids[index] != 0 { hangUp(index) }
        dropNext()
    }

    /// Adds one of the server's listeners.
    func add(_ listener: borrowing Listener) throws(ForkingError) {
        sockets.append((listener.descriptor.rawValue, try listener.copyOfSocket()))
    }

    // MARK: A child's life

    /// Makes the next child's channel, before its datagram is taken from the socket.
    func prepare() throws(ForkingError) {
        guard next == nil else { return }
        let pair = try DescriptorPair()
        if forkcore_refuse_rights(pair.ours.rawValue) != 0, !mayHoldRights { mayHoldRights = true }
        ParentOnly.add(pair.ours.rawValue)
        next = (pair.ours.release(), pair.theirs.release())
    }

    /// The next child's end of its channel.
    var childsEnd: Int32 { next!.childs }

    /// The child was forked.
    func begin(_ pid: ProcessID, for datagram: borrowing Datagram) {
        // Leftovers in the table can hold entries of `pending` too: all may be in use.
        guard let (ours, childs) = next, case .socket(let servers) = datagram.way,
            let socket = sockets.first(where: { $0.servers == servers })?.copy.rawValue,
            let index = (0..<pids.count).first(where: { pids[$0] == 0 }),
            forkcore_poll_add(poll.rawValue, ours, UInt64(index)) == 0
        else { return dropNext() }
        next = nil
        forkcore_close(childs)
        pids[index] = pid
        if index >= end { end = index + 1 }
        pending[index] = PendingReply(
            channel: ours, socket: socket, peer: datagram.peer, destination: datagram.destination)
    }

    private func dropNext() {
        guard let (ours, childs) = next else { return }
        next = nil
        close(ours)
        forkcore_close(childs)
    }

    /// The child ended.
    func end(_ pid: ProcessID) {
        if let index = (0..<end).first(where: { pids[$0] == pid }) { hangUp(index) }
    }

    private func hangUp(_ index: Int) {
        pids[index] = 0
        forkcore_poll_remove(poll.rawValue, pending[index].channel)
        close(pending[index].channel)
    }

    private func close(_ channel: Int32) {
        ParentOnly.remove(channel)
        forkcore_close_aside(channel)
    }

    // MARK: Replies

    /// Sends one reply of each child that has one.
    func send() {
        withUnsafeTemporaryAllocation(of: UInt64.self, capacity: 64) { tokens in
            var ready = 0
            guard forkcore_poll_ready(poll.rawValue, tokens.baseAddress, tokens.count, &ready) == 0 else { return }
            for token in tokens.prefix(ready) { send(ofChildAt: Int(token)) }
        }
    }

    private func send(ofChildAt index: Int) {
        guard pids[index] != 0 else { return }
        let reply = pending[index]
        if mayHoldRights, forkcore_drop_rights(reply.channel) { return hangUp(index) }
        var (size, isTruncated) = (0, false)
        var code: Int32 = 0
        _ = SocketAddress {
            code = forkcore_receive_datagram(
                reply.channel, buffer.pointer(to: 0), buffer.count, $0, $1, nil, &size, &isTruncated)
        }
        // Each reply begins with an extra byte, so that an empty reply is not an empty message.
        guard code == 0, size > 0 else { return code == EAGAIN ? () : hangUp(index) }
        var answer = isTruncated ? EMSGSIZE : send(size - 1, to: reply)
        _ = forkcore_send_datagram(reply.channel, &answer, MemoryLayout<Int32>.size, nil, 0, nil)
    }

    private func send(_ size: Int, to reply: PendingReply) -> Int32 {
        var destination = reply.destination
        return reply.peer.withSockaddr {
            forkcore_send_datagram(reply.socket, buffer.pointer(to: 1), size, $0, $1, &destination)
        }
    }
}
