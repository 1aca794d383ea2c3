// SPDX-License-Identifier: Apache-2.0
//
// The command line's process, before it serves: parses options. It starts no thread.

import ArgumentParser
import Forking

/// The user, and the OOM score, of children and workers.
struct IdentityOptions: ParsableArguments {
    /// The parsed values, for a `Job`.
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
            Run children and workers as this user, by name or number. Without a group they get the user's group, and \
            all groups that the user is in. Needs root; the server itself stays root.
            """,
            valueName: "user[:group]"))
    var user: String?
    @Option(
        parsing: .unconditional,
        help: ArgumentHelp(
            """
            The OOM score of children and workers, from -1000 (the kernel never kills them when memory is short) to \
            1000 (it kills them first). By default that of the server.
            """,
            valueName: "n"))
    var oomScoreAdj: Int?

    /// Call `check` before.
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
