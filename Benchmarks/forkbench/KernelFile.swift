// SPDX-License-Identifier: Apache-2.0

import Glibc

/// What the kernel says in files. What it does not say is nil, and nobody's limit.
enum KernelFile {
    static func text(_ path: String) -> String? {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var text: [UInt8] = []
        var bytes = [UInt8](repeating: 0, count: 4096)
        while true {
            let count = read(descriptor, &bytes, bytes.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { break }
            text += bytes.prefix(count)
        }
        return String(decoding: text, as: UTF8.self)
    }

    /// The number that a file consists of, or that stands after a word at the start of a line.
    static func number(_ path: String, after word: String? = nil) -> Int? {
        guard let text = text(path) else { return nil }
        for line in text.split(separator: "\n") {
            let words = line.split(whereSeparator: { $0 == " " || $0 == "\t" })
            if let word {
                if words.count > 1, words[0] == word { return Int(words[1]) }
            } else {
                return words.first.flatMap { Int($0) }
            }
        }
        return nil
    }

    /// How many threads, of all processes, exist.
    static var threadCount: Int {
        let words = (text("/proc/loadavg") ?? "").split(separator: " ")  // 0.00 0.01 0.05 1/123 4711
        return words.count > 3 ? words[3].split(separator: "/").last.flatMap { Int($0) } ?? 0 : 0
    }

    /// How many processes `user` has.
    static func processes(of user: uid_t) -> Int {
        guard let directory = opendir("/proc") else { return 0 }
        defer { closedir(directory) }
        var count = 0
        while let entry = readdir(directory) {
            let name = withUnsafeBytes(of: entry.pointee.d_name) {
                String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self)
            }
            var status = stat()
            if Int(name) != nil, stat("/proc/\(name)", &status) == 0, status.st_uid == user { count += 1 }
        }
        return count
    }

    /// The directories of this process's control group and of those above it, in either version's hierarchy.
    static func controlGroups(_ controller: String) -> [String] {
        var directories: [String] = []
        for line in (text("/proc/self/cgroup") ?? "").split(separator: "\n") {
            // 8:pids:/a/b in version 1, 0::/a/b in version 2
            let parts = line.split(separator: ":", maxSplits: 2, omittingEmptySubsequences: false)
            guard parts.count == 3 else { continue }
            let isNew = parts[0] == "0" && parts[1].isEmpty
            guard isNew || parts[1].split(separator: ",").contains(Substring(controller)) else { continue }
            var path = parts[2].split(separator: "/")
            while true {
                let root = "/sys/fs/cgroup" + (isNew ? "" : "/\(controller)")
                directories.append(([Substring(root)] + path).joined(separator: "/"))
                if path.popLast() == nil { break }
            }
        }
        return directories
    }
}
