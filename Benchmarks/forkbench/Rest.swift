// SPDX-License-Identifier: Apache-2.0

/// When a machine that has just made many processes is fit to be measured, and whether it still is.
///
/// Right after thousands of forks everything is many times slower: the last children are on their way into their read,
/// pages are copied, and the kernel's own threads walk what so many processes share. With 20,000 of them such storms
/// also come back, for a second at a time, in which a fork takes 100 ms instead of 0.2. How long it takes depends on
/// the machine, so a fixed sleep is too short or too long; and a shared machine is never idle, so waiting for idle
/// processors may never end. So an operation is watched, until it takes the same time again and again.
struct Rest {
    private static let groups = 5
    private static let groupLength = 0.005
    /// Wide, as what else runs on the machine doubles single figures; a storm makes them ten and hundred times larger.
    private static let tolerance = 1.5
    private static let stormFactor = 3.0

    /// What the operation takes at rest, in microseconds.
    let time: Double

    /// Repeats `operation` in short groups until the medians of five in a row are within half of each other, and not
    /// far from the best that was seen: a storm can be steady, too. Medians, as single stalls go on for ever, and are
    /// no sign of unrest. Nil if that did not come about before `deadline` (see `nanoseconds()`).
    init?(before deadline: Int64, _ operation: () throws -> Void) rethrows {
        var medians: [Double] = []
        var best = Double.infinity
        repeat {
            try medians.append(Self.median(operation))
            best = min(best, medians.last!)
            let latest = medians.suffix(Self.groups)
            let (low, high) = (latest.min()!, latest.max()!)
            if latest.count == Self.groups, high <= low * Self.tolerance, low <= best * Self.tolerance {
                time = low
                return
            }
        } while nanoseconds() < deadline
        return nil
    }

    /// Whether the operation takes about as long as it did: what was measured since was not measured in a storm. It is
    /// asked of the same operation, never of what was measured, so that nobody's dear moments are thrown away as
    /// storms.
    func lasts(_ operation: () throws -> Void) rethrows -> Bool {
        try Self.median(operation) <= time * Self.stormFactor
    }

    /// Of at least three operations.
    private static func median(_ operation: () throws -> Void) rethrows -> Double {
        let begun = nanoseconds()
        var times: [Double] = []
        while times.count < 3 || seconds(since: begun) < groupLength {
            let start = nanoseconds()
            try operation()
            times.append(microseconds(from: start, to: nanoseconds()))
        }
        return times.sorted()[times.count / 2]
    }

    // MARK: Measuring at rest

    /// After thousands of forks the machine is slow for a while, and at times again later. What was measured in such a
    /// storm is measured once more, if it is worth it, but not for ever, nor if the answer may be rough.
    ///
    /// - Parameter single: the operation that tells whether the machine is at rest.
    static func around<Sample>(
        isRough: Bool, _ single: () throws -> Void, measure: () throws -> Sample, again isWorthIt: (Sample) -> Bool
    ) throws -> (Sample, isAtRest: Bool) {
        let (patience, mostAttempts) = isRough ? (Int64(1_000_000_000), 1) : (10_000_000_000, 3)
        var attempts = 0
        while true {
            let rest = try Rest(before: nanoseconds() + patience, single)
            let sample = try measure()
            let isAtRest = try rest?.lasts(single) ?? false
            attempts += 1
            if isAtRest || attempts == mostAttempts || !isWorthIt(sample) { return (sample, isAtRest) }
        }
    }

    static func tell(restless: Int, of all: Int) {
        guard restless > 0 else { return }
        print(
            "\nThe machine was not at rest when \(restless) of \(all) measurements began: expect a wide spread.")
    }
}
