// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// Warm children: the zygote forks them ahead of the calls that they will serve, and makes their channels. The host has
/// its ends of these before there is a call, so that a call needs neither a fork request nor a fork.
extension ZygoteProcess {
    /// Warm children that are being forked.
    struct Warming: BitwiseCopyable {
        /// How many are still to be forked.
        var missing = 0
        /// The host's ends of the channels of those that were, to be sent together.
        var ends = InlineArray<64, Int32>(repeating: -1)
        var count = 0
    }

    var isForkingAhead: Bool { state.value.warming.missing > 0 && takesRequests }

    /// Forks one more warm child, so that a call which has come meanwhile does not wait for the others. Sends the
    /// host's ends when that was the last one, or when no more can be forked: then the host asks again, after a call.
    func forkAhead() {
        guard state.value.warming.missing > 0 else { return }
        state.value.warming.missing -= 1
        if !takesRequests || !forkWarm() { state.value.warming.missing = 0 }
        let (missing, count) = (state.value.warming.missing, state.value.warming.count)
        if missing == 0 || count == state.value.warming.ends.count { sendEnds() }
    }

    private func forkWarm() -> Bool {
        guard hasDescriptorLeft, let pair = try? DescriptorPair() else { return false }
        let ours = pair.ours.rawValue
        replacements.clear(ours)
        ParentOnly.add(pair.theirs.rawValue)
        do throws(ForkingError) { try fork(for: ours, requested: nil) } catch {
            ParentOnly.remove(pair.theirs.rawValue)
            return false
        }
        ParentOnly.add(ours)
        // The host takes this back for a call that expects descriptors: see `CallChannel.open`.
        _ = forkcore_refuse_rights(pair.theirs.rawValue)
        state.value.warming.ends[state.value.warming.count] = pair.theirs.release()
        state.value.warming.count += 1
        _ = pair.ours.release()
        return true
    }

    /// Sends the host its ends, and closes them here. If that fails, the children find no host, and exit.
    private func sendEnds() {
        let count = state.value.warming.count
        var head = CallMessage.Head(.forked)
        head.count = UInt64(state.value.warming.missing)
        withUnsafeMutableBytes(of: &head) { head in
            state.value.warming.ends.span.withUnsafeBufferPointer { ends in
                var message = forkcore_message(
                    head: head.baseAddress, head_size: head.count, bytes: nil, count: 0,
                    descriptors: UnsafeMutablePointer(mutating: ends.baseAddress), descriptor_count: count)
                _ = forkcore_message_send(control.rawValue, &message)
            }
        }
        for index in 0..<count {
            ParentOnly.remove(state.value.warming.ends[index])
            forkcore_close(state.value.warming.ends[index])
        }
        state.value.warming.count = 0
    }

    /// Forks another child on the channel of one that has died before it received its request: the request is in the
    /// channel, or will be. Returns whether there is another child, so that nobody needs to hear of that one.
    func replace(_ exit: ChildExit) -> Bool {
        let channel = exit.tag
        guard channel >= 0, isWaiting(channel), replacements.note(channel), !forkcore_hung_up(channel) else {
            return false
        }
        forkcore_poll_remove(hangUps.rawValue, channel)
        return (try? fork(for: channel, requested: .now, keeping: [channel])) != nil
    }

    private func isWaiting(_ channel: Int32) -> Bool {
        var size = 0
        guard !marks.isSettled(channel) else { return false }  // an isolate's call is no request
        return marks.time(channel) == nil || forkcore_message_size(channel, &size) == 0
    }
}

/// How often a channel's child was replaced. If each of several children dies at once, the next one would, too.
struct Replacements: ~Copyable {
    private static let most = 3
    /// By descriptor, as the marks.
    private let counts: ParentArray<UInt8>

    init(for marks: ChannelMarks) throws(ForkingError) { counts = try ParentArray(count: marks.count) }

    func clear(_ channel: Int32) { if channel < counts.count { counts[Int(channel)] = 0 } }

    /// Returns whether one more may be forked, and counts it.
    func note(_ channel: Int32) -> Bool {
        guard channel < counts.count, counts[Int(channel)] < Self.most else { return false }
        counts[Int(channel)] += 1
        return true
    }
}
