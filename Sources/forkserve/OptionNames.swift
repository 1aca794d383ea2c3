// SPDX-License-Identifier: Apache-2.0

import Forking

extension ForkingError {
    /// The library names properties of its configurations; who typed a command line knows them as options.
    var namingOptions: ForkingError {
        guard case .invalid(let text) = detail else { return self }
        return .invalid(OptionNames.naming(text))
    }
}

/// What the properties are called on the command line.
enum OptionNames {
    /// Those of which the library says `NAME is …`. Where values have another unit here, the option's own check comes
    /// first.
    static let options = [
        "maxChildren": "--max-children", "timeout": "--timeout", "ioTimeout": "--io-timeout", "noDelay": "--no-delay",
        "drainTimeout": "--drain-timeout", "killTimeout": "--kill-timeout", "printsCrashBacktrace": "--backtraces",
        "control": "--control", "credentials": "--user", "oomScore": "--oom-score-adj", "workers": "--workers",
        "maxWorkers": "--max-workers", "startTimeout": "--start-timeout", "maxFailures": "--max-failures",
        "maxRequests": "--max-requests", "maxAge": "--max-age", "maxMemoryKiB": "--max-memory",
        "requestTimeout": "--timeout", "replacementDrainTimeout": "--replacement-drain-timeout",
        "maxReplacedAtOnce": "--max-replaced-at-once", "printsStuckBacktrace": "--backtraces",
        "keepAlive": "--keepalive",
        "userTimeout": "--user-timeout", "isIPv6Only": "--ipv6-only", "backlog": "--backlog", "permissions": "--mode",
        "group": "--group",
    ]

    /// What it says otherwise.
    private static let beginnings = [
        ("credentials or oomScore cannot be set", "--user or --oom-score-adj cannot be set"),
        ("containment is .descendants", "what programs start is kept track of (not with --leave-daemons)"),
    ]

    /// An error's text, as who typed a command line understands it.
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
