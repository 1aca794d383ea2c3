// SPDX-License-Identifier: Apache-2.0

/// When a machine that has just made many processes is fit to be measured.
///
/// Right after thousands of forks everything is several times slower, for some hundred milliseconds or for seconds: the
/// last children are still on their way into their read, pages are copied, the kernel's own threads catch up. How long
/// depends on the machine, so a fixed sleep is too short or too long; and on a shared machine the load never becomes 0,
/// so waiting for idle processors may never end. What counts is looked at instead: the operation itself, until it takes
/// the same time again and again.
enum Rest {
    private static let groups = 5
    private static let tolerance = 1.2

    /// Repeats `operation` in short groups until the medians of five in a row are within a fifth of each other. Medians,
    /// as single stalls (another process, the kernel's housekeeping) go on for ever, and are no sign of unrest.
    ///
    /// - Parameters:
    ///   - group: how long a group lasts, in seconds; the longer, the slower a change that is noticed.
    ///   - limit: after so many seconds it is given up.
    /// - Returns: whether rest was reached.
    static func reach(group: Double, limit: Double, _ operation: () throws -> Void) rethrows -> Bool {
        let begun = nanoseconds()
        var medians: [Double] = []
        repeat {
            try medians.append(median(seconds: group, operation))
            let latest = medians.suffix(groups)
            if latest.count == groups, latest.max()! <= latest.min()! * tolerance { return true }
        } while seconds(since: begun) < limit
        return false
    }

    /// Of at least five operations.
    private static func median(seconds length: Double, _ operation: () throws -> Void) rethrows -> Double {
        let begun = nanoseconds()
        var times: [Double] = []
        while times.count < 5 || seconds(since: begun) < length {
            let start = nanoseconds()
            try operation()
            times.append(microseconds(from: start, to: nanoseconds()))
        }
        return times.sorted()[times.count / 2]
    }
}
