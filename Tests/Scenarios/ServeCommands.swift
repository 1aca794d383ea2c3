// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import SystemPackage
import TestSupport

// What runs in the children of `scenarios serve`.

/// Does what the client says, a command a line. What is no command comes back as it is.
func obey(_ connection: inout Connection, server: ForkingServer, inherited: [Int]) throws {
    while let line = try connection.readLine() {
        let words = String(decoding: line.dropLast(), as: UTF8.self).split(separator: " ").map(String.init)
        switch words.first {
        case "crash": try crash(words[1])
        case "throw": throw Failure("the handler's own error")
        case "print": print("the child printed \(words[1])")  // left in stdio's buffer
        case "ignore": signal(SIGTERM, SIG_IGN)
        case "stop": server.stop(.kill)  // must do nothing here
        case "flood": try flood(&connection)
        case "storm": try writeDuringStorm(&connection)
        case "helper": try connection.write("\(startHelper(ignoringSIGTERM: words.contains("stubborn")))\n")
        case "pid": try connection.write("\(getpid())\n")
        case "open": try connection.write(describeDescriptors(besides: inherited) + "\n")
        case "nodelay": try connection.write("\(isOn(TCP_NODELAY, connection.descriptor.rawValue))\n")
        case "sigpipe": signal(SIGPIPE, SIG_DFL)
        default: break
        }
        let answered: Set = ["helper", "pid", "open", "nodelay", "storm"]
        if !answered.contains(words.first ?? "") { try connection.write(line) }
    }
}

/// Answers a datagram with itself; `hold` with the child's pid, after which the child stays.
func answer(_ datagram: Datagram) throws {
    let text = String(decoding: datagram.bytes, as: UTF8.self)
    if text == "hold" {
        try datagram.reply(Array("\(getpid())".utf8))
        while true { pause() }
    }
    try datagram.reply(Array((datagram.isTruncated ? "truncated " + text : text).utf8))
}

// MARK: Crashes

/// Ends this process in a way of its own.
func crash(_ cause: String) throws {
    let many = CommandLine.arguments.count + 1_000_000  // nothing that the compiler knows
    switch cause {
    case "index": print([1, 2, 3][many])
    case "overflow": print(Int.max - 10 + many)
    case "nil": print(many < 0 ? "" : String(getenv("NO_SUCH_VARIABLE_HERE")!.pointee))
    case "fatalError": fatalError("on purpose")
    case "segv": UnsafeMutablePointer<Int>(bitPattern: 8)!.pointee = many
    case "abort": abort()
    case "stack": print(deeper(many))
    case "loop": while now() > 0 {}
    case "memory": exhaustMemory()
    case "status": _exit(7)
    default: throw Failure("no such crash: \(cause)")
    }
}

private func deeper(_ depth: Int) -> Int {
    let here = [depth, depth &+ 1]
    guard depth > 0 else { return 0 }
    return deeper(here[1]) &+ here[0]
}

/// Takes what RLIMIT_AS leaves: this machine keeps its memory.
private func exhaustMemory() {
    let inUse = contents(of: "/proc/self/statm").flatMap { rlim_t($0.prefix { $0 != " " }) }! * 4096
    var limit = rlimit(rlim_cur: inUse + 64 << 20, rlim_max: inUse + 64 << 20)
    setrlimit(__rlimit_resource_t(RLIMIT_AS.rawValue), &limit)
    var hoard: [[UInt8]] = []
    while true { hoard.append([UInt8](repeating: 1, count: 1 << 20)) }
}

// MARK: Streams

/// Writes until the client has gone, and says on stderr what the error was.
private func flood(_ connection: inout Connection) throws {
    let piece = [UInt8](repeating: 1, count: 65_536)
    while true { try connection.write(piece) }
}

/// What `storm` sends.
let stormSize = 20 << 20

func stormByte(_ index: Int) -> UInt8 { UInt8(truncatingIfNeeded: index &* 31 &+ index >> 12) }

/// Writes 20 MB while a signal with a handler, and without SA_RESTART, arrives all the time.
private func writeDuringStorm(_ connection: inout Connection) throws {
    let bytes = (0..<stormSize).map(stormByte)  // before: the storm is for the writing alone
    var action = sigaction()
    action.__sigaction_handler.sa_handler = { _ in }
    sigaction(SIGALRM, &action, nil)
    let interval = timeval(tv_sec: 0, tv_usec: 200)
    var timer = itimerval(it_interval: interval, it_value: interval)
    setitimer(__itimer_which_t(ITIMER_REAL.rawValue), &timer, nil)
    try connection.write(bytes)
    timer = itimerval()
    setitimer(__itimer_which_t(ITIMER_REAL.rawValue), &timer, nil)
}

private func isOn(_ option: Int32, _ descriptor: Int32) -> Int32 {
    var value: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    getsockopt(descriptor, Int32(IPPROTO_TCP), option, &value, &length)
    return value == 0 ? 0 : 1
}

// MARK: Processes and descriptors

/// Starts a process that lives until it is killed, in this one's group, and returns when it is what it should be.
private func startHelper(ignoringSIGTERM: Bool) -> pid_t {
    var options = ChildOptions()
    options.containment = Containment.none
    options.diesWithParent = false
    guard let table = try? ChildTable(maxChildren: 1), let ready = try? pipe() else { return 0 }
    let helper = try? table.fork(options: options) {
        if ignoringSIGTERM { signal(SIGTERM, SIG_IGN) }
        close(ready.read)
        close(ready.write)
        // Nobody must wait for this one's end to see the connection's, or the server's output.
        for descriptor in openDescriptors() { close(Int32(descriptor)) }
        while true { pause() }
    }
    close(ready.write)
    var byte: UInt8 = 0
    _ = read(ready.read, &byte, 1)
    close(ready.read)
    return helper ?? 0
}

/// What each descriptor is that this program has opened, such as `5:socket`; stdio and what it inherited stay out.
private func describeDescriptors(besides inherited: [Int]) -> String {
    openDescriptors().sorted().filter { !inherited.contains($0) }.map { descriptor in
        var target = [CChar](repeating: 0, count: 200)
        readlink("/proc/self/fd/\(descriptor)", &target, target.count - 1)
        let kind = String(decoding: target.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
        return "\(descriptor):\(kind.prefix { $0 != ":" })"
    }.joined(separator: " ")
}
