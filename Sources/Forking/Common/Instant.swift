// SPDX-License-Identifier: Apache-2.0
//
// Any process.

import Glibc

/// A point in time on CLOCK_MONOTONIC, in nanoseconds. (The standard library's clocks are part of Concurrency.)
package struct Instant: Comparable, BitwiseCopyable {
    package var nanoseconds: Int64

    init(nanoseconds: Int64) { self.nanoseconds = nanoseconds }

    package static var now: Instant {
        var time = timespec()
        clock_gettime(CLOCK_MONOTONIC, &time)
        return Instant(nanoseconds: Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec))
    }

    package static func < (a: Instant, b: Instant) -> Bool { a.nanoseconds < b.nanoseconds }

    /// Saturates instead of overflowing.
    package static func + (instant: Instant, duration: Duration) -> Instant {
        let (sum, overflow) = instant.nanoseconds.addingReportingOverflow(duration.inNanoseconds)
        return Instant(nanoseconds: overflow ? (instant.nanoseconds < 0 ? .min : .max) : sum)
    }

    /// Saturates instead of overflowing.
    package static func - (later: Instant, earlier: Instant) -> Duration {
        let (difference, overflow) = later.nanoseconds.subtractingReportingOverflow(earlier.nanoseconds)
        return .nanoseconds(overflow ? (later.nanoseconds < 0 ? .min : .max) : difference)
    }
}

extension Duration {
    /// Whole nanoseconds, limited to 64 bits (292 years). Does not use `components`, which trap if the seconds exceed
    /// 64 bits.
    package var inNanoseconds: Int64 { Int64(clamping: attoseconds / 1_000_000_000) }

    /// At least 1, because 0 means no timeout in C.
    var inMicroseconds: Int64 { max(1, inNanoseconds / 1000) }

    /// Rounded up, so that a wait of this length is long enough.
    var inMilliseconds: Int64 { inNanoseconds / 1_000_000 + (inNanoseconds % 1_000_000 > 0 ? 1 : 0) }

    /// `1.234 s`
    var inSeconds: String {
        let milliseconds = inNanoseconds / 1_000_000
        let fraction = String(milliseconds % 1000)
        return "\(milliseconds / 1000)." + String(repeating: "0", count: 3 - fraction.utf8.count) + fraction + " s"
    }
}

/// The earlier of two points in time; nil means never.
func earlier(_ a: Instant?, _ b: Instant?) -> Instant? {
    guard let a, let b else { return a ?? b }
    return min(a, b)
}
