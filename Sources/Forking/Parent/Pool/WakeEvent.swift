// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// What workers wake their parent by: an eventfd(2) each, which nobody else has. Whatever a worker does with its own,
/// it is the others' that are heard.
///
/// Parent. It does not read them: a worker could have made that wait. And as nothing says which of them are only noise,
/// it looks so often a second, and then after pauses.
struct WakeEvent: ~Copyable {
    /// The looks in a second that follow one another without a pause.
    private static let looksWithoutPause = 100
    private static let pauseBetweenLooks = Duration.milliseconds(20)

    private let poll: ParentDescriptor
    private var second = Instant.now
    private var looks = 0
    /// Until the next look.
    private(set) var pause = Pause()

    init() throws(ForkingError) {
        poll = try ParentDescriptor("epoll_create1", forkcore_poll_open)
    }

    /// What to wait for; -1 during a pause.
    var descriptor: Int32 { pause.isOn ? -1 : poll.rawValue }

    /// One for a worker that is about to be forked. It is heard of as long as somebody has it.
    func bell() throws(ForkingError) -> OwnedDescriptor {
        let bell = try OwnedDescriptor("eventfd", forkcore_event_open)
        try check(forkcore_poll_add_edge(poll.rawValue, bell.rawValue, 0), "epoll_ctl")
        return bell
    }

    /// There is news, for which all workers will be looked at.
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
