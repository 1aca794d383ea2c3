// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// For each call's channel, by its descriptor: whether a child has begun to receive the request. Children write to this
/// memory, which all of them share.
///
/// A child that dies before that has cost no call, because the request still stands in the channel, or will: another
/// child can serve it.
struct ChannelMarks: BitwiseCopyable {
    private let times: UnsafeMutablePointer<Int64>
    /// The number of descriptors that have one.
    let count: Int

    /// Descriptors above this have no mark.
    private static let most = 1 << 20

    init() throws(ForkingError) {
        var limit = rlimit()
        getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
        count = min(Int(clamping: limit.rlim_cur), Self.most)
        let size = count * MemoryLayout<Int64>.stride
        var memory: UnsafeMutableRawPointer?
        try check(forkcore_shared_open(size, &memory), "mmap")
        times = memory!.bindMemory(to: Int64.self, capacity: count)
    }

    /// Zygote: a new channel.
    func clear(_ channel: Int32) { if channel < count { times[Int(channel)] = 0 } }

    /// Child: the request is there, and is received next.
    func set(_ channel: Int32) { if channel < count { times[Int(channel)] = Instant.now.nanoseconds } }

    /// Child: it stays, and what comes on this channel is for it alone: no other child may receive it.
    func settle(_ channel: Int32) { if channel < count { times[Int(channel)] = -Instant.now.nanoseconds } }

    /// Zygote: whether the child has settled.
    func isSettled(_ channel: Int32) -> Bool { channel < count && times[Int(channel)] < 0 }

    /// Zygote: when a child began to receive the request; nil if none has. Never in the future, whatever a child has
    /// written.
    func time(_ channel: Int32) -> Instant? {
        guard channel < count else { return .now }
        let time = times[Int(channel)]
        return time == 0 ? nil : min(Instant(nanoseconds: Int64(clamping: time.magnitude)), .now)
    }
}
