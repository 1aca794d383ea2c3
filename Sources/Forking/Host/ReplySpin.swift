// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Synchronization

/// Host, any thread: whether the thread that called an isolate looks for the reply itself for a moment.
///
/// A short call takes less time than to wake a thread, or a processor that sleeps. So it spins, but leaves its processor
/// to whoever wants it: sched_yield(2). If the reply has not come by then, the next calls do not spin.
struct ReplySpin: ~Copyable {
    static let duration = Duration.microseconds(100)
    private static let pause = 32
    /// The number of calls that are still to be made without.
    private let skipped = Atomic(0)

    /// For the next call.
    func isWorthwhile() -> Bool {
        let count = skipped.load(ordering: .relaxed)
        if count > 0 { skipped.store(count - 1, ordering: .relaxed) }
        return count == 0
    }

    /// Returns whether there is something to receive.
    func wait(for channel: Int32) -> Bool {
        let hasCome = forkcore_readable_soon(channel, Self.duration.inNanoseconds)
        if !hasCome { skipped.store(Self.pause, ordering: .relaxed) }
        return hasCome
    }
}
