// SPDX-License-Identifier: Apache-2.0

import CTestSupport
import Glibc
import Synchronization

/// A program under test, in a session of its own. When its deadline passes, or it goes away, all that it has started is
/// killed, whatever session that is in: nothing a test started outlives it.
public final class Running {
    public let pid: Int32
    /// All of stdout and stderr read so far.
    public private(set) var output = ""
    public private(set) var errors = ""

    private let deadline: Double
    private var pipes: [Int32?]
    private var unreadLines: Substring = ""
    private var status: Int32?
    /// In the environment of what it starts.
    private let mark: String

    /// Starts `program` with a deadline, in seconds, for all that is done with it.
    ///
    /// - Parameter inherited: descriptors that the program gets under their given numbers.
    public init(
        _ program: String, _ arguments: [String] = [], environment: [String: String] = [:],
        inherited: [Int32: Int32] = [:], input: Int32? = nil, deadline seconds: Double = 180
    ) throws {
        deadline = now() + seconds
        let (out, err) = (try pipe(), try pipe())
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        if let input {
            posix_spawn_file_actions_adddup2(&actions, input, 0)
        } else {
            posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0)
        }
        posix_spawn_file_actions_adddup2(&actions, out.write, 1)
        posix_spawn_file_actions_adddup2(&actions, err.write, 2)
        for (number, descriptor) in inherited { posix_spawn_file_actions_adddup2(&actions, descriptor, number) }
        // Whoever runs the tests may have left any number of others open, and scenarios have few.
        test_close_from(max(2, inherited.keys.max() ?? 2) + 1, &actions)

        var attributes = posix_spawnattr_t()
        posix_spawnattr_init(&attributes)
        defer { posix_spawnattr_destroy(&attributes) }
        let newSession: Int16 = 0x80, setMask: Int16 = 0x08, setDefaults: Int16 = 0x04
        posix_spawnattr_setflags(&attributes, newSession | setMask | setDefaults)
        var none = sigset_t(), all = sigset_t()
        sigemptyset(&none)
        sigfillset(&all)
        posix_spawnattr_setsigmask(&attributes, &none)
        posix_spawnattr_setsigdefault(&attributes, &all)

        var variables = Self.inheritedEnvironment.merging(["SWIFT_BACKTRACE": "enable=no"]) { $1 }
        variables.merge(environment) { $1 }
        variables[Guard.variable] = Guard.name
        mark = "\(getpid())-\(UInt64.random(in: .min ... .max))"
        variables[Self.markVariable] = mark
        let arguments = ([program] + arguments).map { strdup($0) } + [nil]
        let strings = variables.map { strdup("\($0)=\($1)") } + [nil]
        defer { for string in arguments + strings { free(string) } }
        var pid: Int32 = 0
        let code = inheritance.withLock { _ in
            posix_spawnp(&pid, program, &actions, &attributes, arguments, strings)
        }
        close(out.write)
        close(err.write)
        self.pid = pid
        pipes = [out.read, err.read]
        guard code == 0 else { throw Failure("cannot start \(program): \(String(cString: strerror(code)))") }
    }

    deinit {
        killAll()
        for case let descriptor? in pipes { close(descriptor) }
        if status == nil { waitpid(pid, nil, 0) }
    }

    public func send(_ signal: Int32) { kill(pid, signal) }

    /// The next line of stdout, without its newline; nil at the end.
    public func line() throws -> String? {
        while true {
            if let end = unreadLines.firstIndex(of: "\n") {
                defer { unreadLines = unreadLines[unreadLines.index(after: end)...] }
                return String(unreadLines[..<end])
            }
            if pipes[0] == nil {
                defer { unreadLines = "" }
                return unreadLines.isEmpty ? nil : String(unreadLines)
            }
            try pump()
        }
    }

    /// Reads until `text` stands in stderr.
    public func waitForError(_ text: String) throws {
        while !errors.contains(text) {
            guard pipes[1] != nil else { throw Failure("stderr ended without '\(text)':\n\(errors)") }
            try pump()
        }
    }

    /// Waits for the end; returns the status, or minus the signal that killed it.
    @discardableResult
    public func wait() throws -> Int32 {
        // Not by the end of the pipes alone: who inherited them may live on.
        while status == nil {
            var raw: Int32 = 0
            if waitpid(pid, &raw, WNOHANG) == pid {
                status = raw & 0x7f == 0 ? (raw >> 8) & 0xff : -(raw & 0x7f)
            } else {
                try pump(atMost: 0.02)
            }
        }
        while pipes.contains(where: { $0 != nil }), family.isEmpty { try pump() }
        while try pump(atMost: 0) {}  // what stands in the pipes, should somebody live on who keeps them open
        return status!
    }

    /// Throws unless every process that this one started ends within `seconds`.
    public func expectNothingAlive(within seconds: Double = 60) throws {
        try eventually(within: seconds, "processes left alive: \(family.map(describe))\n\(errors)") {
            family.filter { $0 != pid || status == nil }.isEmpty
        }
    }

    /// What it has started, zombies included, but for the process that only waits for its end.
    public var descendants: [Int32] { family.filter { $0 != pid && !isWatcher($0) } }

    private func killAll() {
        while case let alive = family.filter({ $0 != pid || status == nil }), !alive.isEmpty {
            for process in alive { kill(process, SIGKILL) }
            if status == nil, waitpid(pid, nil, WNOHANG) == pid { status = -SIGKILL }
            usleep(1000)
        }
    }

    /// Reads what has come on either pipe, after waiting for it. Returns whether there was something.
    @discardableResult
    private func pump(atMost seconds: Double = .infinity) throws -> Bool {
        let rest = deadline - now()
        guard rest > 0 else {
            killAll()
            throw Failure("the deadline has passed\nstdout: \(output)\nstderr: \(errors)")
        }
        var polled = pipes.map { pollfd(fd: $0 ?? -1, events: Int16(POLLIN), revents: 0) }
        let ready = poll(&polled, nfds_t(polled.count), Int32(min(rest, seconds) * 1000) + 1)
        for index in pipes.indices where polled[index].revents != 0 {
            var bytes = [UInt8](repeating: 0, count: 65_536)
            let count = read(pipes[index]!, &bytes, bytes.count)
            let text = String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
            if count <= 0 {
                close(pipes[index]!)
                pipes[index] = nil
            } else if index == 0 {
                output += text
                unreadLines += text
            } else {
                errors += text
            }
        }
        return ready > 0
    }

    private static var inheritedEnvironment: [String: String] {
        var variables: [String: String] = [:]
        var next = environ
        while let variable = next.pointee {
            let parts = String(cString: variable).split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            variables[String(parts[0])] = parts.count == 2 ? String(parts[1]) : ""
            next += 1
        }
        return variables
    }

    private static let markVariable = "FORKING_TEST_RUN"

    /// It and what it has started: by its session, by its mark in the environment, and what descends from those.
    private var family: [Int32] {
        var others = processes().compactMap { pid in Process(pid).map { (pid: pid, process: $0) } }
        var members: Set<Int32> = []
        func move(_ belongs: ((pid: Int32, process: Process)) -> Bool) -> Bool {
            let found = others.filter(belongs)
            members.formUnion(found.map(\.pid))
            others.removeAll { members.contains($0.pid) }
            return !found.isEmpty
        }
        _ = move { $0.process.session == pid }
        let variable = "\(Self.markVariable)=\(mark)"
        _ = move { (contents(of: "/proc/\($0.pid)/environ") ?? "").split(separator: "\0").contains { $0 == variable } }
        while move({ members.contains($0.process.parent) || members.contains($0.process.session) }) {}
        return members.sorted()
    }
}

/// Reads /proc. What has ended and is process 1's to reap is gone: in a container that is often no init, and reaps
/// nobody.
public struct Process {
    public let state: Character
    public let parent: Int32
    public let group: Int32
    public let session: Int32

    public init?(_ pid: Int32) {
        guard let text = contents(of: "/proc/\(pid)/stat"), let end = text.lastIndex(of: ")") else { return nil }
        let fields = text[text.index(end, offsetBy: 2)...].split(separator: " ")
        state = fields[0].first!
        parent = Int32(fields[1])!
        group = Int32(fields[2])!
        session = Int32(fields[3])!
        if isZombie, parent == 1 { return nil }
    }

    public var isZombie: Bool { state == "Z" }
}

/// Whether it is what a server starts to end its children, should it be killed.
public func isWatcher(_ pid: Int32) -> Bool { contents(of: "/proc/\(pid)/comm") == "forking-watch\n" }

/// All processes there are.
public func processes() -> [Int32] { entries(of: "/proc").compactMap { Int32($0) } }

/// How many descriptors this process, or another, has open.
public func openDescriptors() -> [Int] { openDescriptors(of: getpid()) }

public func openDescriptors(of pid: Int32) -> [Int] {
    // One of them is opendir's own, in our case.
    entries(of: "/proc/\(pid)/fd").compactMap { Int($0) }.filter { pid != getpid() || fcntl(Int32($0), F_GETFD) >= 0 }
}

private func describe(_ pid: Int32) -> String {
    let command = contents(of: "/proc/\(pid)/cmdline")?.split(separator: "\0").joined(separator: " ") ?? ""
    return "\(pid) (\(Process(pid).map { String($0.state) } ?? "gone")) \(command)"
}
