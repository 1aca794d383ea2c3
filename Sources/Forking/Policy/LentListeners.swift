// SPDX-License-Identifier: Apache-2.0

/// Which listeners programs have, and when the server looks after one again whose program has ended. Policy alone; the
/// loop acts on it.
struct LentListeners {
    /// After a program that ended well: it may have left somebody waiting whom it will not serve, and the next one
    /// neither.
    static let pause = Admission.pause

    private var borrowers: [ProcessID: Int32] = [:]
    private var resting: [(listener: Int32, until: Instant)] = []
    /// Of listeners whose last program failed.
    private var failures: [Int32: Backoff] = [:]

    /// When the first of those that rest is to be looked after again. Kept, as the loop asks in each turn: to look into
    /// the list would count references each time.
    private(set) var next: Instant?

    mutating func lend(_ listener: Int32, to pid: ProcessID) { borrowers[pid] = listener }

    /// A child has ended, which may have had one. After one that failed by itself the wait is longer each time.
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

    /// No program could be found for one.
    mutating func rest(_ listener: Int32, until: Instant) {
        resting.append((listener, until))
        next = earlier(next, until)
    }

    /// Those whose rest is over.
    mutating func due(at now: Instant) -> [Int32] {
        guard !resting.isEmpty else { return [] }
        let due = resting.filter { $0.until <= now }.map(\.listener)
        resting.removeAll { $0.until <= now }
        next = resting.map(\.until).min()
        return due
    }
}
