// SPDX-License-Identifier: Apache-2.0

/// What counts as one client, and what it has to its account. See `AdmissionPolicy`.
struct SourceRecord: BitwiseCopyable {
    /// An address that was cut off at its prefix, or a user.
    struct Key: BitwiseCopyable, Hashable {
        private let high: UInt64
        private let low: UInt64
        private let family: UInt8

        init(_ address: AddressKey, prefix: Int) {
            let network = address.masked(to: prefix)
            (high, low, family) = (network.high, network.low, network.family)
        }

        /// As people write it.
        func name(ipv4Prefix: Int, ipv6Prefix: Int) -> String {
            guard family > 1 else { return "uid:\(high)" }
            let address = AddressKey(family: family, high: high, low: low)
            return AddressRange(address, prefix: family == 4 ? ipv4Prefix : ipv6Prefix).description
        }

        init(user: UInt32) { (high, low, family) = (UInt64(user), 0, 1) }
    }

    let key: Key
    var children: UInt32 = 0
    /// Clients that were refused in the last second in which any was.
    var refused: UInt32 = 0
    var refusedIn: UInt32 = 0
    /// When its token bucket is full again.
    var bucketFull = Instant(nanoseconds: 0)
    /// When its penalties are over.
    var penalizedUntil = Instant(nanoseconds: 0)
    /// Whether they have reached the least sum that counts.
    var isPenalized = false
    /// The list of `SourceTable` that it is in.
    var list = List.none

    enum List: UInt8 { case none, others, penalized }

    /// Adds a penalty to those that are not over.
    mutating func penalize(_ penalty: Duration, _ penalties: AdmissionPolicy.Penalties, at now: Instant) {
        if penalizedUntil <= now { isPenalized = false }
        penalizedUntil = min(max(penalizedUntil, now) + penalty, now + penalties.most)
        if penalizedUntil - now >= penalties.least { isPenalized = true }
    }

    func isPenalized(at now: Instant) -> Bool { isPenalized && penalizedUntil > now }
}
