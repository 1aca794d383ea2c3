// SPDX-License-Identifier: Apache-2.0

import Glibc

/// A line on standard error that says what is being measured; only for a person who looks.
enum Progress {
    private static let isWatched = isatty(STDERR_FILENO) == 1

    /// Replaces the line.
    static func show(_ text: String) {
        if isWatched { writeAll("\r\u{1B}[K\(text)", to: STDERR_FILENO) }
    }

    static func clear() { show("") }

    /// A line that stays, for everybody.
    static func say(_ text: String) {
        clear()
        writeAll("forkbench: \(text)\n", to: STDERR_FILENO)
    }
}
