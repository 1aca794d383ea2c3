// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// How workers wake their parent. Each has an eventfd(2) of its own, so that none can suppress the events of the
/// others.
///
/// Parent. It does not read the eventfds, because a worker could make the read wait. It cannot tell which events
/// matter: so after a number of wake-ups in a second, it pauses between them.
struct WakeEvent: ~Copyable {
    /// The number of wake-ups in a second without a pause between them.
    private static let looksWithoutPause = 100
    private static let pauseBetweenLooks = Duration.milliseconds(20)

    private let poll: ParentDescriptor
    private var second = Instant.now
    private var looks = 0
    /// The pause until the eventfds are polled again.
    private(set) var pause = Pause()

    init() throws(ForkingError) {
        poll = try ParentDescriptor("epoll_create1", forkcore_poll_open)
    }

    /// The descriptor to poll; -1 during a pause.
    var descriptor: Int32 { pause.isOn ? -1 : poll.rawValue }

    /// Makes the eventfd of a worker that is about to be forked. It is polled as long as a process has it open.
    func bell() throws(ForkingError) -> OwnedDescriptor {
        let bell = try OwnedDescriptor("eventfd", forkcore_event_open)
        try check(forkcore_poll_add_edge(poll.rawValue, bell.rawValue, 0), "epoll_ctl")
        return bell
    }

    /// Takes a wake-up. The caller then checks all workers.
    mutating func take(_ now: Instant) {
        var tokens = InlineArray<16, UInt64>(repeating: 0)
        var span = tokens.mutableSpan
        span.withUnsafeMutableBufferPointer { tokens in
            var count = 0
            var rounds = 0
            repeat {
                guard forkcore_poll_ready(poll.rawValue, tokens.baseAddress, tokens.count, &count) == 0 else { return }
                rounds += 1
            } while count == tokens.count && rounds < 2 * PreforkServer.Configuration.ceiling / tokens.count
        }
        if now - second >= .seconds(1) { (second, looks) = (now, 0) }
        looks += 1
        if looks > Self.looksWithoutPause { pause.begin(until: now + Self.pauseBetweenLooks) }
    }

    mutating func fireTimers(_ now: Instant) { pause.fireTimers(now) }
}
