// SPDX-License-Identifier: Apache-2.0

import Glibc

/// A point on CLOCK_MONOTONIC, in nanoseconds. (The standard library's clocks live in Concurrency.)
struct Instant: Comparable {
    var nanoseconds: Int64

    static var now: Instant {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Instant(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
    }

    static func < (a: Instant, b: Instant) -> Bool { a.nanoseconds < b.nanoseconds }

    /// Stops at either end of time instead of overflowing.
    static func + (instant: Instant, duration: Duration) -> Instant {
        let (sum, overflow) = instant.nanoseconds.addingReportingOverflow(duration.inNanoseconds)
        return Instant(nanoseconds: overflow ? (instant.nanoseconds < 0 ? .min : .max) : sum)
    }

    /// Stops at what a duration of 64 bits can hold instead of overflowing.
    static func - (later: Instant, earlier: Instant) -> Duration {
        let (difference, overflow) = later.nanoseconds.subtractingReportingOverflow(earlier.nanoseconds)
        return .nanoseconds(overflow ? (later.nanoseconds < 0 ? .min : .max) : difference)
    }
}

extension Duration {
    /// Whole nanoseconds, as far as 64 bits go (292 years). Not by `components`, which trap where a duration has more
    /// seconds than 64 bits can count.
    package var inNanoseconds: Int64 { Int64(clamping: attoseconds / 1_000_000_000) }

    /// At least one, as 0 would be none where C takes it.
    var inMicroseconds: Int64 { max(1, inNanoseconds / 1000) }

    /// Rounded up, so that what waits so long has waited long enough.
    var inMilliseconds: Int64 { inNanoseconds / 1_000_000 + (inNanoseconds % 1_000_000 > 0 ? 1 : 0) }

    /// `1.234 s`
    var inSeconds: String {
        let milliseconds = inNanoseconds / 1_000_000
        let fraction = String(milliseconds % 1000)
        return "\(milliseconds / 1000)." + String(repeating: "0", count: 3 - fraction.utf8.count) + fraction + " s"
    }
}

/// The earlier of two points in time, where none means never.
func earlier(_ a: Instant?, _ b: Instant?) -> Instant? {
    guard let a, let b else { return a ?? b }
    return min(a, b)
}
