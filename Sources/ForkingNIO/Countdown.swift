// SPDX-License-Identifier: Apache-2.0
//
// Worker, any thread.

import NIOCore
import Synchronization

/// Counts users, and succeeds when the last one has left. Starts at 1, for its creator; no user may enter after the
/// last one has left.
final class Countdown: Sendable {
    private let present = Atomic(1)
    private let promise: EventLoopPromise<Void>

    init(on loop: any EventLoop) { promise = loop.makePromise() }

    var isOver: EventLoopFuture<Void> { promise.futureResult }

    func enter() { present.add(1, ordering: .relaxed) }

    func leave() {
        if present.subtract(1, ordering: .acquiringAndReleasing).newValue == 0 { promise.succeed() }
    }
}
