// SPDX-License-Identifier: Apache-2.0

/// Which listeners are lent to programs, and when the server polls a listener again whose program has ended. Policy
/// only; the loop acts on it.
struct LentListeners {
    /// The pause after a program that succeeded: it may have left a client in the queue that neither it nor the next
    /// program serves.
    static let pause = Admission.pause

    private var borrowers: [ProcessID: Int32] = [:]
    private var resting: [(listener: Int32, until: Instant)] = []
    /// For the listeners whose last program failed.
    private var failures: [Int32: Backoff] = [:]

    /// When to poll the first of the resting listeners again. Stored because the loop reads it in each turn: a search
    /// of the array would retain it each time.
    private(set) var next: Instant?

    mutating func lend(_ listener: Int32, to pid: ProcessID) { borrowers[pid] = listener }

    /// A child has ended, which may have had a listener. After a program that failed by itself, the pause is longer
    /// each time.
    mutating func end(
        _ pid: ProcessID, failed: Bool, at now: Instant, using generator: inout some RandomNumberGenerator
    ) {
        guard let listener = borrowers.removeValue(forKey: pid) else { return }
        var until = now + Self.pause
        if failed {
            failures[listener, default: Backoff()].noteFailure(at: now, using: &generator)
            until = failures[listener]?.until ?? until
        } else {
            failures[listener] = nil
        }
        rest(listener, until: until)
    }

    /// The listener is not polled until then.
    mutating func rest(_ listener: Int32, until: Instant) {
        resting.append((listener, until))
        next = earlier(next, until)
    }

    /// Removes and returns the listeners whose pause is over.
    mutating func due(at now: Instant) -> [Int32] {
        guard !resting.isEmpty else { return [] }
        let due = resting.filter { $0.until <= now }.map(\.listener)
        resting.removeAll { $0.until <= now }
        next = resting.map(\.until).min()
        return due
    }
}
