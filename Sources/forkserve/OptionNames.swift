// SPDX-License-Identifier: Apache-2.0
//
// Any process: the wording of errors. Acts on nothing.

import Forking

extension ForkingError {
    /// The library's errors name properties of its configurations. This error names the options instead, which the user
    /// has typed.
    var namingOptions: ForkingError {
        guard case .invalid(let text) = detail else { return self }
        return .invalid(OptionNames.naming(text))
    }
}

/// Replaces the names of properties in error texts by those of options.
enum OptionNames {
    /// Properties in errors of the form `NAME is …`. Options with another unit than their property are checked before.
    static let options = [
        "maxChildren": "--max-children", "timeout": "--timeout", "ioTimeout": "--io-timeout", "noDelay": "--no-delay",
        "drainTimeout": "--drain-timeout", "killTimeout": "--kill-timeout", "printsCrashBacktrace": "--backtraces",
        "control": "--control", "credentials": "--user", "oomScore": "--oom-score-adj", "workers": "--workers",
        "maxWorkers": "--max-workers", "startTimeout": "--start-timeout", "maxFailures": "--max-failures",
        "maxRequests": "--max-requests", "maxAge": "--max-age", "maxMemoryKiB": "--max-memory",
        "requestTimeout": "--timeout", "replacementDrainTimeout": "--replacement-drain-timeout",
        "maxReplacedAtOnce": "--max-replaced-at-once", "printsStuckBacktrace": "--backtraces",
        "keepAlive": "--keepalive", "userTimeout": "--user-timeout", "isIPv6Only": "--ipv6-only",
        "maxPerSource": "--per-source", "ipv4Prefix": "--per-source", "ipv6Prefix": "--per-source", "rate": "--rate",
        "totalRate": "--total-rate", "penalties": "--penalty", "earlyDrop": "--early-drop", "reservations": "--reserve",
        "rules": "--allow", "rulesFile": "--rules", "refusal": "--refuse-with",
        "backlog": "--backlog", "permissions": "--mode", "group": "--group",
    ]

    /// Other beginnings of the library's errors.
    private static let beginnings = [
        ("credentials or oomScore cannot be set", "--user or --oom-score-adj cannot be set"),
        ("containment is .descendants", "without --leave-daemons forkserve tracks what programs start"),
    ]

    /// An error's text with the names of options.
    static func naming(_ text: String) -> String {
        for (beginning, other) in beginnings where text.hasPrefix(beginning) {
            return other + text.dropFirst(beginning.count)
        }
        let mark = text.prefix { $0 != " " }
        guard let option = options[String(mark)], text.dropFirst(mark.count).hasPrefix(" is ") else { return text }
        let words = text.split(separator: " ", omittingEmptySubsequences: false).dropFirst().map(String.init)
        return ([option] + words.map(namingCompared)).joined(separator: " ")
    }

    /// `workers,` of `maxWorkers is 3, and must be from workers, which is 4, to 1024`.
    private static func namingCompared(_ word: String) -> String {
        guard word.hasSuffix(","), let option = options[String(word.dropLast())] else { return word }
        return option + ","
    }
}
