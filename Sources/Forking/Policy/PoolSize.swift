// SPDX-License-Identifier: Apache-2.0

/// How many workers a pool should have. Policy only; the loop counts the workers and the queue, and acts on it.
///
/// It grows fast and shrinks slowly, because a missing worker makes clients wait, and a surplus one costs only memory.
/// A pool whose minimum is its maximum never changes by itself.
struct PoolSize {
    /// A look adds at most this many workers. Each look in a row that adds some doubles what it adds: 1, 2, 4 … .
    static let largestStep = 32
    /// A worker is removed after there were spare idle workers for this long, without a break; the next one after the
    /// same time again.
    static let shrinkAfter = Duration.seconds(10)
    /// Idle workers are spare beyond one in this many, and beyond the first.
    static let spareShare = 4
    /// The time between two looks while no worker is idle, and otherwise.
    static let shortPause = Duration.milliseconds(100), longPause = Duration.seconds(1)

    private(set) var minimum: Int
    private(set) var maximum: Int
    /// How many there should be.
    private(set) var wanted: Int
    /// The limit to which the maximum can be raised.
    let ceiling: Int
    /// When to look again; nil before the first look, and while there is nothing to look for.
    private(set) var nextLook: Instant?

    /// The bounds as they were configured, and by how much they were moved.
    private let given: ClosedRange<Int>
    private var shifted = 0
    /// How many workers the next look adds, if it adds any.
    private var step = 1
    /// Whether the last look found all workers busy.
    private var wasBusy = false
    /// Since when there have been spare idle workers.
    private var spareSince: Instant?

    init(minimum: Int, maximum: Int, ceiling: Int) {
        precondition(1 <= minimum && minimum <= maximum && maximum <= ceiling, "1 <= minimum <= maximum <= ceiling")
        (self.minimum, self.maximum, self.ceiling) = (minimum, maximum, ceiling)
        given = minimum...maximum
        wanted = minimum
    }

    var isFixed: Bool { minimum == maximum }

    /// Takes the current numbers, and returns how many workers there should be.
    ///
    /// - Parameters:
    ///   - idle: the workers that could serve at once.
    ///   - live: the workers that serve, idle or busy: neither those that are starting nor those that drain.
    ///   - queued: the clients that wait in the kernel to be accepted.
    mutating func look(idle: Int, live: Int, queued: Int, at now: Instant) -> Int {
        guard !isFixed else {
            nextLook = nil
            return wanted
        }
        if idle > 0 {
            (step, wasBusy) = (1, false)
        } else if live >= wanted {  // otherwise some are starting, and it is unknown yet whether they suffice
            grow(isUrgent: queued > 0)
        }
        shrink(idle: idle, at: now)
        nextLook = now + (idle > 0 ? Self.longPause : Self.shortPause)
        return wanted
    }

    /// Called when all workers are busy. Unless clients wait, that can be for a moment only: it must last until the
    /// next look.
    private mutating func grow(isUrgent: Bool) {
        defer { wasBusy = true }
        guard isUrgent || wasBusy else { return }
        wanted = min(wanted + step, maximum)
        step = min(step * 2, Self.largestStep)
    }

    private mutating func shrink(idle: Int, at now: Instant) {
        guard wanted > minimum, idle > max(1, wanted / Self.spareShare) else {
            spareSince = nil
            return
        }
        let since = spareSince ?? now
        spareSince = since
        if now - since >= Self.shrinkAfter {
            wanted -= 1
            spareSince = now
        }
    }

    /// SIGTTIN: one worker more. Raises both bounds by one, up to the ceiling.
    mutating func add() { shift(by: 1) }

    /// SIGTTOU: one worker less. Lowers both bounds by one, down to one worker.
    mutating func remove() { shift(by: -1) }

    /// Moves both bounds. SIGTTIN and SIGTTOU undo each other: bounds that were clamped to the same value separate
    /// again.
    private mutating func shift(by one: Int) {
        shifted = (shifted + one).clamped(to: 1 - given.upperBound...ceiling - given.lowerBound)
        minimum = (given.lowerBound + shifted).clamped(to: 1...ceiling)
        maximum = (given.upperBound + shifted).clamped(to: 1...ceiling)
        wanted = (wanted + one).clamped(to: minimum...maximum)
        spareSince = nil
    }
}

extension Int {
    fileprivate func clamped(to range: ClosedRange<Int>) -> Int {
        Swift.min(Swift.max(self, range.lowerBound), range.upperBound)
    }
}
