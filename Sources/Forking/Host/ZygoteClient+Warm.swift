// SPDX-License-Identifier: Apache-2.0

import CForkCore
import SystemPackage

/// Host: warm children, which the zygote forks ahead of calls. See `WarmChildren` for when.
extension ZygoteClient {
    /// The zygote has forked some, and sent the host's ends of their channels.
    func noteForked(_ message: CallMessage, _ state: inout State) {
        if let channel = message.descriptors.first { state.warmRefuseRights = !forkcore_takes_rights(channel) }
        state.warmChannels += message.descriptors
        state.warm.noteForked(message.descriptors.count, isLast: message.head.count == 0)
        if state.queue.phase != .open { dropWarm(&state) }
    }

    /// Gives a warm child to a call, if there is one. The last that came is the likeliest to be in a processor's cache.
    ///
    /// Looks for the zygote's end before, because a warm child outlives it for a moment, and would lose the call.
    func takeWarm(_ pending: PendingCall, _ state: inout State) -> Bool {
        guard !state.warmChannels.isEmpty else { return false }
        look(&state)
        guard let channel = state.warmChannels.last,
            pending.channel.take(warm: channel, refusesRights: state.warmRefuseRights)
        else { return false }
        state.warmChannels.removeLast()
        state.warm.noteTaken()
        return true
    }

    /// A call has ended, and its caller has the reply soon: the time to ask for more.
    func refill(_ state: inout State) {
        guard let control = state.control, state.queue.phase == .open else { return }
        let count = state.warm.refill()
        if count > 0, send(ForkRequest(.warm, count: count), over: control) != 0 { state.warm.noteForked(0) }
    }

    /// Closes the channels of warm children. These then exit, if the zygote has not ended with them.
    func dropWarm(_ state: inout State) {
        state.warmChannels.forEach(forkcore_close)
        state.warmChannels = []
        state.warm.noteLost()
    }

    /// Sends the requests of calls that have their slots. A call whose warm child has ended, with its zygote or
    /// without, goes back to the head of the queue, and gets another.
    func sendRequests(of started: [PendingCall]) {
        var rest: [PendingCall] = []
        for pending in started {
            guard pending.channel.send() else {
                rest.append(pending)
                continue
            }
            if !pending.isIsolate { onEvent(.began(handler: pending.name)) }
        }
        guard !rest.isEmpty else { return }
        change { state in
            for pending in rest.reversed() { state.queue.requeue(pending) }
            noticeEnd(&state)
            advance(&state)
        }
    }
}
