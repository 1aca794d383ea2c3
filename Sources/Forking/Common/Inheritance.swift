// SPDX-License-Identifier: Apache-2.0

import Glibc

/// What a program leaves to one that takes its place, or that it starts: a text in a variable of the environment, and
/// the number of a process, which says whom it is for, or from. Environments are passed on, and anybody can write to
/// them: who reads it believes it only where the number is his own, or his parent's.
package struct Inheritance {
    let name: String

    /// - Parameter name: the variable's.
    package init(_ name: String) { self.name = name }

    /// `NAME=pid text`, for the environment of a program that is started.
    func variable(_ pid: ProcessID, _ text: String = "") -> String { "\(name)=\(value(pid, text))" }

    private func value(_ pid: ProcessID, _ text: String) -> String { text.isEmpty ? "\(pid)" : "\(pid) \(text)" }

    /// Leaves it to the program that this process executes next. setenv(3)
    package func leave(_ text: String) { setenv(name, value(getpid(), text), 1) }

    /// Takes it back, where that program could not be executed. unsetenv(3)
    package func remove() { unsetenv(name) }

    /// Takes what was left out of the environment, whatever it says: no program started from here is to have it. Nil if
    /// there is nothing, or it makes no sense.
    func take() -> (pid: ProcessID, text: String)? {
        guard let value = getenv(name) else { return nil }
        defer { remove() }
        let parts = String(cString: value).split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false)
        return ProcessID(parts[0]).map { ($0, parts.count > 1 ? String(parts[1]) : "") }
    }

    /// What the program before left to this process: the same process, or one that knew its number.
    package func takeOwn() -> String? {
        guard let (pid, text) = take(), pid == getpid() else { return nil }
        return text
    }

    /// Whether a descriptor that was left with it is open. From now on no program started from here has it. FD_CLOEXEC
    /// in fcntl(2)
    static func adopt(_ descriptor: Int32) -> Bool { fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 }
}
