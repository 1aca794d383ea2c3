// SPDX-License-Identifier: Apache-2.0

// Children that do what they should not, for Examples/storm to try a server with:
//     Storm serve ADDRESS    a ForkingServer
//     Storm pool ADDRESS     a PreforkServer
//     Storm program          one connection on descriptors 0 and 1, for `forkserve exec`
// A client sends one line: what the child is to do.

import CStorm
import Forking
import Glibc
import SystemPackage

/// Child: obeys one line, and answers `done` where it comes to that.
func obey(_ connection: inout Connection) throws {
    guard let line = try connection.readLine(limit: 1000) else { return }
    let words = String(decoding: line, as: UTF8.self).split { $0 == " " || $0 == "\n" }
    switch words.first {
    case "hello": break
    case "crash": _ = words[words.count]  // a trap
    case "exit": exit(3)
    case "stop": raise(SIGSTOP)
    case "spin": while true {}
    case "sleep": sleep(1000)
    case "traced": storm_be_traced()
    case "held": storm_be_held(10)
    case "sibling": storm_give_sibling()
    case "daemon": storm_leave_daemon(1000)
    case "scribble": storm_scribble(100)
    case "flood": storm_flood(500)
    case "answer": try connection.write([UInt8](repeating: 120, count: 600_000))
    default: return
    }
    try connection.write(line)
}

func makeListener(_ text: String) throws -> Listener {
    let address = try SocketAddress(parsing: text)
    return try Listener(address)
}

func serve(_ address: String) throws {
    var configuration = ForkingServer.Configuration()
    configuration.maxChildren = 200
    configuration.child.timeout = .seconds(3)
    configuration.ioTimeout = .seconds(2)
    configuration.child.killTimeout = .seconds(1)
    configuration.drainTimeout = .seconds(3)
    // This process is the server's alone: whatever children make is the server's to end and to reap.
    configuration.child.containment = .descendants
    configuration.reapsStrangers = true
    let server = try ForkingServer(makeListener(address), configuration: configuration) { try obey(&$0) }
    server.hooks.signals[.userDefinedOne] = { server in _ = server.status }
    print("listening on \(server.address)")
    fflush(nil)
    try server.serve()
}

func servePool(_ address: String) throws {
    var configuration = PreforkServer.Configuration()
    configuration.workers = 4
    configuration.requestTimeout = .milliseconds(300)
    configuration.ioTimeout = .milliseconds(300)
    configuration.child.killTimeout = .milliseconds(300)
    configuration.drainTimeout = .seconds(3)
    let server = try PreforkServer(makeListener(address), configuration: configuration) { connection, _ in
        try obey(&connection)
    }
    server.hooks.signals[.userDefinedOne] = { server in _ = server.status }
    print("listening on \(server.addresses[0])")
    fflush(nil)
    try server.serve()
}

func serveOne() throws {
    var connection = Connection(FileDescriptor(rawValue: dup(0)), peer: try SocketAddress(unix: "@client"))
    close(0)
    close(1)
    try obey(&connection)
}

do {
    switch CommandLine.arguments.dropFirst().first {
    case "serve": try serve(CommandLine.arguments[2])
    case "pool": try servePool(CommandLine.arguments[2])
    case "program": try serveOne()
    default: fatalError("Storm serve ADDRESS | pool ADDRESS | program")
    }
} catch {
    let text = Array("Storm: \(error)\n".utf8)
    _ = write(2, text, text.count)
    exit(1)
}
