// SPDX-License-Identifier: Apache-2.0

/// Whether the next client is taken now or waits in the kernel's queue, where it costs nothing. Policy only; the loop
/// acts on it.
struct Admission {
    enum Decision: Equatable { case admit, wait }

    /// After a shortage of descriptors or memory, the server retries after this time, or when a child has ended.
    static let pause = Duration.milliseconds(50)

    /// On while a resource is short.
    private(set) var shortage = Pause()
    /// When there last was a shortage, of any kind.
    private var lastShortage: Instant?
    /// How often in a row all spawn slots were in use.
    private var crowds = 0

    /// A shortage is reported as new only after this time without one: where a client can be served only when another
    /// leaves, a shortage begins and ends with each client.
    static let respite = Duration.seconds(1)

    /// Whether to report the shortage that was met now.
    mutating func isNewShortage(at now: Instant) -> Bool {
        defer { lastShortage = now }
        return lastShortage.map { $0 + Self.respite <= now } ?? true
    }

    mutating func noteShortage(at now: Instant) { shortage.begin(until: now + Self.pause) }

    /// All spawn slots are in use: usually for less than a millisecond until execve, longer if the file system is slow.
    /// The server retries after 1, 2, 4 … milliseconds.
    ///
    /// - Returns: whether that has lasted so long that it is a shortage.
    mutating func noteCrowd(at now: Instant) -> Bool {
        let isShortage = crowds >= 6
        shortage.begin(until: now + (isShortage ? Self.pause : .milliseconds(1 << crowds)))
        crowds = min(crowds + 1, 6)
        return isShortage
    }

    /// A child has ended: what was short may be available now.
    mutating func noteEnd() { shortage.end() }

    mutating func noteClient() {
        if crowds > 0 { crowds = 0 }
    }

    mutating func fireTimers(_ now: Instant) { shortage.fireTimers(now) }

    func decide(isFull: Bool) -> Decision {
        isFull || shortage.isOn ? .wait : .admit
    }
}
