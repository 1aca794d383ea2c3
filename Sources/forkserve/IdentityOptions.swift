// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Forking

/// Whom the processes that serve act as.
struct IdentityOptions: ParsableArguments {
    /// As plain values, for a job.
    struct Values: Equatable {
        var credentials: Credentials?
        var oomScore: Int?

        mutating func code(_ coder: inout FieldCoder) {
            var numbers = credentials.map { [$0.user, $0.group] + $0.supplementaryGroups } ?? []
            coder.field(&numbers)
            coder.field(&oomScore)
            guard numbers.count >= 2 else { return credentials = nil }
            credentials = Credentials(
                user: numbers[0], group: numbers[1], supplementaryGroups: Array(numbers.dropFirst(2)))
        }
    }

    @Option(
        help: ArgumentHelp(
            """
            Whom the processes that serve act as, by names or numbers; without a group, as that user's, and with all groups \
            that the user is in. Takes root, which the server itself stays.
            """,
            valueName: "user[:group]"))
    var user: String?
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            "How soon the kernel ends them when memory is short: from -1000, never, to 1000, first. By default as the server.",
            valueName: "n"))
    var oomScoreAdj: Int?

    /// What was found right by `check`.
    var values: Values { Values(credentials: user.flatMap { try? Credentials(parsing: $0) }, oomScore: oomScoreAdj) }

    func check() throws {
        try Bound.count("--oom-score-adj", oomScoreAdj, from: -1000, upTo: 1000)
        do throws(ForkingError) {
            if let user { _ = try Credentials(parsing: user) }
        } catch {
            throw ValidationError("--user: \(error)")
        }
    }
}
