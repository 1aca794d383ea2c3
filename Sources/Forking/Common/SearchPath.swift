// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Where a shell looks for a program that is called by its name alone. Byte for byte: not all of a path is UTF-8. Any
/// process.
///
/// Without FilePath, as each server looks for its own program at its start: what that makes at first use, each fork
/// would copy.
package enum SearchPath {
    /// The first place for which `isWanted` says so, with its NUL.
    ///
    /// - Parameters:
    ///   - name: without a slash.
    ///   - path: as PATH, with colons; a directory without a name is the one that we are in. Nil: what there is in
    ///     every system.
    ///   - isWanted: is given one place after the other.
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

    /// A file's path in a directory, of whose name only `length` bytes count.
    static func joined(_ directory: UnsafePointer<CChar>, _ length: Int, _ name: UnsafePointer<CChar>) -> [CChar] {
        var path: [CChar] = []
        path.append(contentsOf: UnsafeBufferPointer(start: directory, count: length))
        path.append(CChar(bitPattern: UInt8(ascii: "/")))
        path.append(contentsOf: UnsafeBufferPointer(start: name, count: strlen(name) + 1))
        return path
    }
}
