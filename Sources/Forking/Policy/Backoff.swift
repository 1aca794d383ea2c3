// SPDX-License-Identifier: Apache-2.0

/// How long to wait before the next start of a worker, a zygote or a program, after starts that failed. Policy alone;
/// the loop acts on it.
struct Backoff {
    /// The wait after one failure. Each further one doubles it.
    static let first = Duration.milliseconds(100)
    /// The wait that is doubled no more.
    static let longest = Duration.seconds(30)
    /// Each wait is longer or shorter by up to this many percent, so that what failed at once is not tried again at
    /// once, on this machine or on many.
    static let jitter: Int64 = 20

    /// The starts that failed since one last succeeded.
    private(set) var failures = 0
    /// When to try again; nil if that may be now.
    var until: Instant? { pause.until }
    private var pause = Pause()
    /// What the last wait was, before jitter.
    private var wait: Duration?

    /// A start failed. The wait begins now; but while one is going on already, the failure is one of a batch that was
    /// started before it, which says no more than the first of them did.
    mutating func noteFailure(at now: Instant, using generator: inout some RandomNumberGenerator) {
        failures += 1
        fireTimers(now)
        guard !pause.isOn else { return }
        let next = min(wait.map { $0 * 2 } ?? Self.first, Self.longest)
        wait = next
        let percent = Int64.random(in: 100 - Self.jitter...100 + Self.jitter, using: &generator)
        pause.begin(until: now + .nanoseconds(next.inNanoseconds / 100 * percent))
    }

    /// A start succeeded: the worker served, or at least said that it would.
    mutating func noteSuccess() { self = Backoff() }

    /// Ends a wait that is over.
    mutating func fireTimers(_ now: Instant) { pause.fireTimers(now) }
}
