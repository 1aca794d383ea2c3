// SPDX-License-Identifier: Apache-2.0

/// When a machine that has just made many processes is fit to be measured, and whether it still is.
///
/// Right after thousands of forks everything is many times slower: the last children are on their way into their read,
/// pages are copied, and the kernel's own threads walk what so many processes share. With 20,000 of them such storms also
/// come back, for a second at a time, in which a fork takes 100 ms instead of 0.2. How long it takes depends on the
/// machine, so a fixed sleep is too short or too long; and a shared machine is never idle, so waiting for idle processors
/// may never end. So an operation is watched, until it takes the same time again and again.
struct Rest {
    private static let groups = 5
    private static let groupLength = 0.005
    /// Wide, as what else runs on the machine doubles single figures; a storm makes them ten and hundred times larger.
    private static let tolerance = 1.5
    private static let stormFactor = 3.0

    /// What the operation takes at rest, in microseconds.
    let time: Double

    /// Repeats `operation` in short groups until the medians of five in a row are within half of each other, and not
    /// far from the best that was seen: a storm can be steady, too. Medians, as single stalls go on for ever, and are no
    /// sign of unrest. Nil if that did not come about before `deadline` (see `nanoseconds()`).
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
    /// asked of the same operation, never of what was measured, so that nobody's dear moments are thrown away as storms.
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
}
