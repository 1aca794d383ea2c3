// SPDX-License-Identifier: Apache-2.0

/// How measurements take turns.
///
/// In a round everything is measured once. The machine's moods (its clock rate, its neighbours) change slower than
/// methods alternate, so they fall on all alike. What comes first in a round may have it better or worse than what
/// comes last, so the order changes from round to round: there and back, and each pair of rounds begins elsewhere.
enum Rounds {
    /// Where each of `count` contestants stands in a round.
    static func order(of count: Int, in round: Int) -> [Int] {
        let forth = (0..<count).map { ($0 + round / 2) % count }
        return round % 2 == 0 ? forth : forth.reversed()
    }
}
