// SPDX-License-Identifier: Apache-2.0

import NIOCore
import Synchronization

/// Tells when all have left who entered; one, the maker, is in from the beginning, and nobody enters after the last
/// left.
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
