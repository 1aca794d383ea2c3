// SPDX-License-Identifier: Apache-2.0

/// Host: the slots of isolates' children. Such a child gets its slot as a call does, and keeps it while it lives.
extension ZygoteClient {
    /// An isolate's child has ended: its slot is free.
    func release(_ id: PendingCall.ID) {
        change { state in
            _ = state.queue.finish(id)
            state.isolates.remove(id)
            advance(&state)
            refill(&state)
        }
    }

    /// Why an isolate's child has gone without a word, and whether its zygote has, too.
    func loss(of id: PendingCall.ID, because error: ForkingError) -> (cause: ForkingError, isZygotes: Bool) {
        change { state in
            noticeEnd(&state)
            if state.queue.wasKilled { return (.shutDown, true) }
            guard state.queue.isRunning(id) else { return (.lost(nextStart: nil), true) }
            return (error.code == .zygoteLost ? CallMessage.noAnswer : error, false)
        }
    }

    /// Whether calls may come, and children be started for them.
    var isOpen: Bool { change { $0.queue.phase == .open } }
}
