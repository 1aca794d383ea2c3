// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Text that a process passes to the program that it executes or starts, in an environment variable. A process ID in
/// front says for whom, or from whom, it is. Environments are inherited, and any process can change its own, so a
/// reader trusts the text only if the ID is its own or its parent's.
package struct Inheritance {
    let name: String

    /// - Parameter name: the name of the variable.
    package init(_ name: String) { self.name = name }

    /// `NAME=pid text`, for the environment of a program that is started.
    func variable(_ pid: ProcessID, _ text: String = "") -> String { "\(name)=\(value(pid, text))" }

    private func value(_ pid: ProcessID, _ text: String) -> String { text.isEmpty ? "\(pid)" : "\(pid) \(text)" }

    /// Sets the variable for the program that this process executes next. setenv(3)
    package func leave(_ text: String) { setenv(name, value(getpid(), text), 1) }

    /// Removes the variable, if that program could not be executed. unsetenv(3)
    package func remove() { unsetenv(name) }

    /// Reads the variable and removes it, whatever it contains, so that no program started from here inherits it. Nil
    /// if it is not set, or malformed.
    func take() -> (pid: ProcessID, text: String)? {
        guard let value = getenv(name) else { return nil }
        defer { remove() }
        let parts = String(cString: value).split(separator: " ", maxSplits: 1, omittingEmptySubsequences: false)
        return ProcessID(parts[0]).map { ($0, parts.count > 1 ? String(parts[1]) : "") }
    }

    /// Returns the text that the previous program left for this process.
    package func takeOwn() -> String? {
        guard let (pid, text) = take(), pid == getpid() else { return nil }
        return text
    }

    /// Returns whether a descriptor that was passed with it is open, and sets close-on-exec, so that no program started
    /// from here inherits it. FD_CLOEXEC in fcntl(2)
    static func adopt(_ descriptor: Int32) -> Bool { fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0 }
}
