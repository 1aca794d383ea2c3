// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization
import SystemPackage

/// The program that SIGUSR2 started anew, until it serves. It has a table of its own: it is not to end with this server.
struct Successor {
    let pid: ProcessID
    /// It says on this that it serves; nil once it has closed it, as it does when it ends.
    var word: ParentDescriptor?
    /// To do so until then.
    var deadline: Instant
}

/// A new program on the same sockets: it is executed, says when it serves, and only then does this one drain. A bad one
/// changes nothing.
extension PreforkServer {
    /// SIGUSR2.
    func upgrade() {
        guard successor == nil else { return hooks.observe(.upgradeFailed("the one before is still being started")) }
        // Its predecessor would hear of it as a failure, and serve beside the one that is started here.
        guard hasServed || !Predecessor.isThere else {
            return hooks.observe(.upgradeFailed("this program is still taking another's place"))
        }
        do throws(ForkingError) {
            let successor = try startSuccessor()
            self.successor = successor
            hooks.observe(.upgrading(successor.pid))
        } catch {
            hooks.observe(.upgradeFailed(error.description))
        }
    }

    private func startSuccessor() throws(ForkingError) -> Successor {
        let table: ChildTable
        if let successors {
            table = successors
        } else {
            table = try ChildTable(limit: 1) { [weak self] in self?.noteEnd(ofSuccessor: $0) }
            successors = table
        }
        var ours: Int32 = -1
        var its: Int32 = -1
        try check(forkcore_channel_open(&ours, &its), "socketpair")
        let word = ParentDescriptor(channel: ours)
        defer { forkcore_close(its) }
        var options = ChildOptions()
        options.diesWithParent = false
        options.containment = Containment.none
        let control = loop.handedOver
        let sockets = listeners.map { ($0.descriptor, $0.listener.origin) }
        let pid = try table.fork(options: options, keeping: sockets.map(\.0) + (control.map { [$0] } ?? [])) {
            Handover(
                sockets: sockets, word: its, control: control, variables: manager?.environment ?? []
            ).execute(executable)
        }
        return Successor(pid: pid, word: word, deadline: .now + configuration.spawnLimit)
    }

    /// Parent: it has said something, or nothing will come any more.
    func hearSuccessor() {
        guard let successor, let word = successor.word else { return }
        guard Handover.isWordOfReadiness(on: word.rawValue) else {
            // Its end comes right after, and says more.
            self.successor?.word = nil
            self.successor?.deadline = min(successor.deadline, .now + .seconds(1))
            return
        }
        self.successor = nil
        isHandedOver = true
        // What the new program said before this, the manager did not take from it: so the end of a reload, and the first
        // beat of its watchdog, come from here.
        manager?.notify("MAINPID=\(successor.pid)\nWATCHDOG=1" + (isReplacingAll ? "\nREADY=1" : ""))
        hooks.observe(.upgraded(successor.pid))
        for shared in listeners { shared.listener.leaveFile() }
        loop.leaveControl()
        advance(to: .drain)
    }

    /// Parent: its time is over.
    func keepSuccessorsTime(_ now: Instant) {
        guard let successor, successor.deadline <= now else { return }
        failSuccessor(successor.word == nil ? "it has closed what it was to say on" : "it was not ready in time")
    }

    private func noteEnd(ofSuccessor exit: ChildExit) {
        guard successor?.pid == exit.pid else { return }
        successor = nil
        hooks.observe(.upgradeFailed(exit.told(of: "the new program")))
    }

    private func failSuccessor(_ reason: String) {
        guard let failed = successor else { return }
        // Its end says more, if it has come already.
        successors?.collect()
        guard successor != nil else { return }
        abandonSuccessor()
        hooks.observe(.upgradeFailed("the new program, \(failed.pid): \(reason)"))
    }

    /// Parent: ends it, and with it its workers.
    func abandonSuccessor() {
        guard successor != nil else { return }
        successor = nil
        successors?.killAll()
        // It is nobody's zombie, and in nobody's way.
        _ = try? successors?.wait(atMost: .seconds(1))
    }
}

/// What a program hands over to the one that takes its place: sockets as a service manager does, sd_listen_fds(3), and a
/// socket on which that one says that it serves.
struct Handover {
    static let variable = "FORKING_UPGRADE"
    private static let first: Int32 = 3

    let sockets: [(descriptor: Int32, origin: Listener.Origin)]
    let word: Int32
    let control: Int32?
    let variables: [String]

    /// Child: becomes the new program. Returns an exit status if it cannot.
    func execute(_ executable: Executable) -> Int32 {
        let all = sockets.map(\.descriptor) + [word] + (control.map { [$0] } ?? [])
        // First out of the way of each other, then to where they are looked for.
        let above = Self.first + Int32(all.count)
        let moved = all.map { fcntl($0, F_DUPFD_CLOEXEC, above) }
        for (index, descriptor) in moved.enumerated() where dup2(descriptor, Self.first + Int32(index)) < 0 {
            return complain("a socket cannot be handed over: \(Errno(rawValue: errno))")
        }
        setenv("LISTEN_PID", "\(getpid())", 1)
        setenv("LISTEN_FDS", "\(sockets.count)", 1)
        setenv("LISTEN_FDNAMES", sockets.map { Self.name(of: $0.origin) }.joined(separator: ":"), 1)
        let wordsPlace = Self.first + Int32(sockets.count), controlsPlace = control.map { _ in wordsPlace + 1 } ?? -1
        let flags = sockets.map { Self.flag(of: $0.origin) }.joined()
        setenv(
            Self.variable, "\(getpid()) \(wordsPlace) \(controlsPlace) \(flags)", 1)
        for text in variables {
            let parts = text.split(separator: "=", maxSplits: 1).map(String.init)
            setenv(parts[0], parts[1], 1)
        }
        executable.arguments.withVector { _ = execv(executable.path, $0) }
        return complain("\(executable.path) cannot be executed: \(Errno(rawValue: errno))")
    }

    /// A letter for each socket says where it comes from, and its name says the rest.
    private static func flag(of origin: Listener.Origin) -> String {
        switch origin {
        case .made: "1"
        case .manager: "0"
        case .descriptor: "d"
        }
    }

    private static func name(of origin: Listener.Origin) -> String {
        switch origin {
        case .made: "made"
        case .manager(let name): name
        case .descriptor(let number): String(number)
        }
    }

    static func origin(flag: Character, name: String) -> Listener.Origin {
        switch flag {
        case "1": .made
        case "d": Int32(name).map { .descriptor($0) } ?? .manager(name: name)
        default: .manager(name: name)
        }
    }

    private func complain(_ text: String) -> Int32 {
        Lines.tell("upgrade: \(text)")
        return 127
    }

    /// Whether the new program said that it serves, and not merely closed its end.
    static func isWordOfReadiness(on descriptor: Int32) -> Bool {
        var byte: UInt8 = 0
        return recv(descriptor, &byte, 1, Int32(MSG_DONTWAIT)) == 1
    }
}

/// The program whose place this one takes, if there is one.
enum Predecessor {
    private static let handedOver: (word: ParentDescriptor, flags: [Character], control: Int32?)? = {
        guard let value = getenv(Handover.variable) else { return nil }
        defer { unsetenv(Handover.variable) }
        let parts = String(cString: value).split(separator: " ")
        guard parts.count == 4, pid_t(parts[0]) == getpid(), let word = Int32(parts[1]), let control = Int32(parts[2]),
            fcntl(word, F_SETFD, FD_CLOEXEC) == 0
        else { return nil }
        let isThere = control >= 0 && fcntl(control, F_SETFD, FD_CLOEXEC) == 0
        return (ParentDescriptor(word), Array(parts[3]), isThere ? control : nil)
    }()
    private static let isControlTaken = Atomic(false)

    /// The predecessor's control socket, once; it is the caller's then.
    static func takeControl() -> Int32? {
        guard let control = handedOver?.control, !isControlTaken.exchange(true, ordering: .relaxed) else { return nil }
        return control
    }

    /// Before the first worker is forked, which is not to have the word.
    static var isThere: Bool { handedOver != nil }

    /// Where the predecessor's socket at `index` came from; nil without a predecessor.
    static func origin(_ index: Int, named name: String) -> Listener.Origin? {
        handedOver.map { Handover.origin(flag: $0.flags.indices.contains(index) ? $0.flags[index] : "0", name: name) }
    }

    /// Says that this program serves; the other then drains.
    static func tellReady() {
        guard let word = handedOver?.word else { return }
        _ = send(word.rawValue, [1], 1, Int32(MSG_NOSIGNAL))
    }
}

/// This program, as it was started.
struct Executable {
    let path: String
    let arguments: CStrings

    /// The path by which it was called, with whatever links are in it: where those lead by the time of SIGUSR2, another
    /// program may stand.
    static var own: Executable {
        var count: Int32 = 0
        let name = forkcore_arguments(&count)[0].map { String(cString: $0) } ?? ""
        let file = resolved("/proc/self/exe")
        let found = places(of: name).first { resolved($0) == file }
        return Executable(path: found ?? installed, arguments: .ofThisProcess)
    }

    /// Where a shell looks for what is called so.
    private static func places(of name: String) -> [String] {
        if name.hasPrefix("/") { return [name] }
        if name.contains("/") {
            guard let directory = getcwd(nil, 0) else { return [] }
            defer { free(directory) }
            return [String(cString: directory) + "/" + name]
        }
        let directories = getenv("PATH").map { String(cString: $0) } ?? ""
        return directories.split(separator: ":").filter { $0.hasPrefix("/") }.map { "\($0)/\(name)" }
    }

    private static func resolved(_ path: String) -> String? {
        guard let real = realpath(path, nil) else { return nil }
        defer { free(real) }
        return String(cString: real)
    }

    /// Where the file is, or was: another may stand there already, if this one was started only just before.
    private static var installed: String {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
        let path = String(decoding: buffer.prefix(max(0, count)).map(UInt8.init(bitPattern:)), as: UTF8.self)
        let mark = " (deleted)"
        return path.hasSuffix(mark) ? String(path.dropLast(mark.count)) : path
    }
}
