// SPDX-License-Identifier: Apache-2.0

/// Whether the next client is taken now or waits in the kernel's queue, where it costs nothing. Policy alone; the loop
/// acts on it.
struct Admission {
    enum Decision: Equatable { case admit, wait }

    /// After a shortage of descriptors or memory the next try is this much later, or when a child has ended.
    static let pause = Duration.milliseconds(50)

    /// While something is short.
    private(set) var shortage = Pause()
    /// When there last was a shortage, of any kind.
    private var lastShortage: Instant?
    /// How often in a row as many programs were on their way as can be.
    private var crowds = 0

    /// How long there must have been none for the next one to be another: where a client can be served only when one
    /// goes, it begins and ends with each.
    static let respite = Duration.seconds(1)

    /// Whether the shortage that was met now is to be told.
    mutating func isNewShortage(at now: Instant) -> Bool {
        defer { lastShortage = now }
        return lastShortage.map { $0 + Self.respite <= now } ?? true
    }

    mutating func noteShortage(at now: Instant) { shortage.begin(until: now + Self.pause) }

    /// As many programs are on their way to be executed as can be: mostly for less than a millisecond, but for longer
    /// where the file system is slow. It is tried again after 1, 2, 4 … milliseconds.
    ///
    /// - Returns: whether that has lasted for so long that it is a shortage.
    mutating func noteCrowd(at now: Instant) -> Bool {
        let isShortage = crowds >= 6
        shortage.begin(until: now + (isShortage ? Self.pause : .milliseconds(1 << crowds)))
        crowds = min(crowds + 1, 6)
        return isShortage
    }

    /// A child has ended: what is short may be there now.
    mutating func noteEnd() { shortage.end() }

    mutating func noteClient() {
        if crowds > 0 { crowds = 0 }
    }

    mutating func fireTimers(_ now: Instant) { shortage.fireTimers(now) }

    func decide(isFull: Bool) -> Decision {
        isFull || shortage.isOn ? .wait : .admit
    }
}
