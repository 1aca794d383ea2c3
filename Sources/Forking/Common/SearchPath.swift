// SPDX-License-Identifier: Apache-2.0

import Glibc
package import SystemPackage

/// Where a shell looks for a program that is called by its name alone. Byte for byte: not all of a path is UTF-8. Any process.
package enum SearchPath {
    /// Where it can be, in the order in which it is looked for.
    ///
    /// - Parameter path: as PATH, with colons; a directory without a name is the one that we are in. Nil: what there is in every
    ///   system.
    package static func places(
        of name: FilePath, in path: UnsafePointer<CChar>? = UnsafePointer(getenv("PATH"))
    ) -> [FilePath] {
        guard let path else { return places(of: name, in: "/usr/bin:/bin") }
        return UnsafeBufferPointer(start: path, count: strlen(path))
            .split(separator: CChar(bitPattern: UInt8(ascii: ":")), omittingEmptySubsequences: false)
            .map { ($0.isEmpty ? "." : FilePath(platformString: Array($0) + [0])).appending(name.components) }
    }
}
