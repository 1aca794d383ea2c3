// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Sees to it that nothing a test has started outlives the tests, be they killed.
///
/// What a test starts has a variable in its environment that names the process which runs the tests; a shell that waits
/// for that process's end kills whatever has it. And that process ends with its parent, `swift test`.
enum Guard {
    static let variable = "FORKING_TEST_PROCESS"

    /// What names the process that runs the tests, for whatever it starts. Nil in a program that was started by hand.
    static let name: String? = {
        if let inherited = getenv(variable) { return String(cString: inherited) }
        guard isRunner, let ends = try? makePipe() else { return nil }
        let name = "\(getpid())-\(UInt32.random(in: .min ... .max))"
        guard startShell(for: name, input: ends.read) else { return nil }
        close(ends.read)
        endWithParent()
        return name  // the other end closes when this process ends
    }()

    private static var isRunner: Bool {
        CommandLine.arguments.contains { $0.hasSuffix(".xctest") }
    }

    private static func startShell(for name: String, input: Int32) -> Bool {
        let script = """
            trap '' INT TERM HUP
            read -r line
            while marked=$(grep -lszxF "$1" /proc/[0-9]*/environ); [ -n "$marked" ]; do
                for file in $marked; do file=${file%/environ}; kill -9 "${file#/proc/}" 2>&-; done
            done
            """
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, input, 0)
        for number in [1, 2] as [Int32] { posix_spawn_file_actions_addopen(&actions, number, "/dev/null", O_WRONLY, 0) }
        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        posix_spawnattr_setflags(&attributes, 0x80)  // a session of its own
        let words: [String] = ["sh", "-c", script, "guard", "\(variable)=\(name)"]
        let arguments = words.map { strdup($0) } + [nil]
        defer { for string in arguments { free(string) } }
        var pid: Int32 = 0
        return posix_spawnp(&pid, "sh", &actions, &attributes, arguments, environ) == 0
    }

    /// `swift test` may be killed, and would leave this process behind.
    private static func endWithParent() {
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            {
                let parent = Int(bitPattern: $0)
                while Int(getppid()) == parent { usleep(200_000) }
                kill(getpid(), SIGKILL)
                return nil
            }, UnsafeMutableRawPointer(bitPattern: Int(getppid())))
    }
}
