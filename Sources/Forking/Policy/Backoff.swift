// SPDX-License-Identifier: Apache-2.0

/// How long to wait before the next start of a worker, a zygote or a program, after starts that failed. Policy only;
/// the loop acts on it.
struct Backoff {
    /// The wait after one failure. Each further one doubles it.
    static let first = Duration.milliseconds(100)
    /// The longest wait, which is not doubled any more.
    static let longest = Duration.seconds(30)
    /// Each wait is longer or shorter by up to this many percent, so that starts that failed at the same time are not
    /// repeated at the same time, on one machine or on many.
    static let jitter: Int64 = 20

    /// How many starts have failed since the last success.
    private(set) var failures = 0
    /// When to try again; nil: now.
    var until: Instant? { pause.until }
    private var pause = Pause()
    /// The last wait, before jitter.
    private var wait: Duration?

    /// A start failed. The wait begins now. A failure during a wait is of a start made before it, in the same batch as
    /// the first failure: it does not make the wait longer.
    mutating func noteFailure(at now: Instant, using generator: inout some RandomNumberGenerator) {
        failures += 1
        fireTimers(now)
        guard !pause.isOn else { return }
        let next = min(wait.map { $0 * 2 } ?? Self.first, Self.longest)
        wait = next
        let percent = Int64.random(in: 100 - Self.jitter...100 + Self.jitter, using: &generator)
        pause.begin(until: now + .nanoseconds(next.inNanoseconds / 100 * percent))
    }

    /// A start succeeded: the worker has served, or has at least reported that it is ready.
    mutating func noteSuccess() { self = Backoff() }

    /// Ends a wait that is over.
    mutating func fireTimers(_ now: Instant) { pause.fireTimers(now) }
}
