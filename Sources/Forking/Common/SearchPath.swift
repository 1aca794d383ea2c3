// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Searches PATH for a program, as a shell does. Works on bytes, because a path need not be UTF-8. Any process.
///
/// Does not use FilePath: each server searches for its own program at its start, and each fork would copy what FilePath
/// allocates at first use.
package enum SearchPath {
    /// Returns the first path, with its NUL, that `isWanted` accepts.
    ///
    /// - Parameters:
    ///   - name: a name without a slash.
    ///   - path: directories separated by colons, as in PATH; an empty one is the working directory. Nil: the standard
    ///     directories.
    ///   - isWanted: called with one path after another.
    package static func find(
        _ name: UnsafePointer<CChar>, in path: UnsafePointer<CChar>? = UnsafePointer(getenv("PATH")),
        where isWanted: (UnsafePointer<CChar>) -> Bool
    ) -> [CChar]? {
        guard var rest = path else { return find(name, in: "/usr/bin:/bin", where: isWanted) }
        while true {
            let length = strcspn(rest, ":")
            let path = length == 0 ? joined(".", 1, name) : joined(rest, length, name)
            if isWanted(path) { return path }
            guard rest[length] != 0 else { return nil }
            rest += length + 1
        }
    }

    /// Joins a directory, of which only the first `length` bytes are used, and a file name.
    static func joined(_ directory: UnsafePointer<CChar>, _ length: Int, _ name: UnsafePointer<CChar>) -> [CChar] {
        var path: [CChar] = []
        path.append(contentsOf: UnsafeBufferPointer(start: directory, count: length))
        path.append(CChar(bitPattern: UInt8(ascii: "/")))
        path.append(contentsOf: UnsafeBufferPointer(start: name, count: strlen(name) + 1))
        return path
    }
}
