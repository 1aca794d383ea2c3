// SPDX-License-Identifier: Apache-2.0

/// A token bucket, as the point in time at which it is full again (the virtual scheduling of the generic cell rate
/// algorithm, ITU-T I.371): one number, and nothing to do while nobody comes.
struct TokenBucket: BitwiseCopyable {
    /// The time in which one token comes.
    private let step: Duration
    /// How far ahead of now the bucket is full again when it is empty.
    private let most: Duration

    init(_ rate: AdmissionPolicy.Rate) {
        step = .nanoseconds(Int64(1e9 / rate.perSecond))
        most = .nanoseconds(Int64(clamping: Int64(min(1e9 / rate.perSecond * Double(rate.burst), 9e18))))
    }

    /// When there is a token for a bucket that is full again at `full`.
    func next(full: Instant) -> Instant { full + (step - most) }

    /// Takes a token, which there must be.
    func take(_ full: inout Instant, at now: Instant) { full = max(full, now) + step }
}
