// SPDX-License-Identifier: Apache-2.0

/// Whether the next client is taken now or waits in the kernel's queue, where it costs nothing. Policy alone; the loop
/// acts on it.
struct Admission {
    enum Decision: Equatable { case admit, wait }

    /// After a shortage of descriptors or memory the next try is this much later: at most 20 a second.
    static let pause = Duration.milliseconds(50)

    /// When to try again.
    private(set) var shortageUntil: Instant?

    mutating func noteShortage(at now: Instant) { shortageUntil = now + Self.pause }

    mutating func keepTime(_ now: Instant) {
        if let until = shortageUntil, until <= now { shortageUntil = nil }
    }

    func decide(isFull: Bool) -> Decision {
        isFull || shortageUntil != nil ? .wait : .admit
    }
}
