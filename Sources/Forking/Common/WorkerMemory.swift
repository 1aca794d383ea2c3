// SPDX-License-Identifier: Apache-2.0

import SystemPackage

/// Measures the memory of a worker.
package enum WorkerMemory {
    /// A process's proportional set size in KiB: its own pages, and its share of the pages that it shares with other
    /// processes, as it does most after a fork. Nil if the process is gone, is a zombie or another user's, or if the
    /// kernel does not have the file (before 4.14). /proc/PID/smaps_rollup in proc_pid_smaps(5).
    ///
    /// The pool's parent, and `forkserve status`. The kernel walks all of the process's pages, and waits while the process changes its mappings. That
    /// takes some 15 milliseconds for a gigabyte: too long for every turn.
    package static func proportionalSize(of pid: ProcessID) -> Int? {
        let path = "/proc/\(pid)/smaps_rollup"
        guard let file = try? FileDescriptor.open(path, .readOnly, options: .closeOnExec) else { return nil }
        defer { try? file.close() }
        // The text has some 700 bytes, with Pss in the third line. One read gives the values of one moment.
        return withUnsafeTemporaryAllocation(byteCount: 2048, alignment: 1) { buffer in
            guard let count = try? file.read(into: buffer) else { return nil }
            return number(after: "\nPss:", in: UnsafeRawBufferPointer(rebasing: buffer[..<count]))
        }
    }

    /// The number that follows `word` and spaces.
    static func number(after word: StaticString, in text: UnsafeRawBufferPointer) -> Int? {
        let word = UnsafeRawBufferPointer(start: word.utf8Start, count: word.utf8CodeUnitCount)
        var rest = text[...]
        while !rest.starts(with: word) {
            if rest.popFirst() == nil { return nil }
        }
        let figures = rest.dropFirst(word.count).drop { $0 == UInt8(ascii: " ") }.prefix { (48...57).contains($0) }
        return figures.isEmpty ? nil : Int(String(decoding: figures, as: UTF8.self))
    }
}
