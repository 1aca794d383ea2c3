// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

@testable import Forking

@Suite("Workers' memory")
struct WorkerMemoryTests {
    @Test("this process has some, and with 64 MB more it has as much more")
    func own() throws {
        let before = try #require(WorkerMemory.proportionalSize(of: getpid()))
        #expect(before > 1000)
        let size = 64 << 20
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: size, alignment: 4096)
        defer { memory.deallocate() }
        for page in stride(from: 0, to: size, by: 4096) { memory[page] = 1 }
        let after = try #require(WorkerMemory.proportionalSize(of: getpid()))
        // Other tests run beside this one, and give back what they had.
        #expect(after - before > size / 1024 / 2, "\(before) KiB, then \(after)")
    }

    @Test("another process has as much as the kernel says")
    func others() throws {
        let running = try Running("sleep", ["100"])
        try eventually("no memory of \(running.pid)") {
            WorkerMemory.proportionalSize(of: running.pid) == rollup(running.pid) && rollup(running.pid) != nil
        }
    }

    private func rollup(_ pid: pid_t) -> Int? {
        contents(of: "/proc/\(pid)/smaps_rollup")?.split(separator: "\n").first { $0.hasPrefix("Pss:") }
            .flatMap { Int($0.split(separator: " ")[1]) }
    }

    @Test("a zombie has none, nor has a process that is gone or never was")
    func gone() throws {
        let running = try Running("true")
        var info = siginfo_t()
        #expect(waitid(P_PID, id_t(running.pid), &info, WEXITED | WNOWAIT) == 0)
        #expect(WorkerMemory.proportionalSize(of: running.pid) == nil)
        _ = try running.wait()
        #expect(WorkerMemory.proportionalSize(of: running.pid) == nil)
        for pid: ProcessID in [0, -1, .max] { #expect(WorkerMemory.proportionalSize(of: pid) == nil) }
    }

    @Test("the figures after a word at the start of a line are read, and no others")
    func figures() {
        func number(_ text: String) -> Int? {
            Array(text.utf8).withUnsafeBytes { WorkerMemory.number(after: "\nPss:", in: $0) }
        }
        #expect(number("x\nPss_Dirty: 1 kB\nPss:      123 kB\n") == 123 && number("\nPss:7") == 7)
        for text in ["", "\n", "\nPs", "\nPss:", "\nPss: ", "\nPss: x", "Pss: 1", "SwapPss: 1", "\nPss: -1"] {
            #expect(number(text) == nil, "'\(text)'")
        }
        #expect(number("\nPss: 99999999999999999999 kB") == nil)
    }
}
