// SPDX-License-Identifier: Apache-2.0

import SystemPackage

/// Reads files of /proc and /sys. Any process.
enum KernelFile {
    /// A file's bytes, up to `limit`; nil if it cannot be read.
    static func bytes(_ path: String, limit: Int = 1 << 20) -> [UInt8]? {
        guard let file = try? FileDescriptor.open(path, .readOnly, options: .closeOnExec) else { return nil }
        defer { try? file.close() }
        var bytes: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 4096)
        while bytes.count < limit {
            guard let count = try? piece.withUnsafeMutableBytes({ try file.read(into: $0) }) else { return nil }
            if count == 0 { break }
            bytes += piece.prefix(count)
        }
        return bytes
    }

    /// A file's non-empty lines; none if it cannot be read.
    static func lines(_ path: String) -> [Substring] {
        String(decoding: bytes(path) ?? [], as: UTF8.self).split(separator: "\n")
    }
}
