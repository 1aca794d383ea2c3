// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import SystemPackage
import TestSupport

// What a program was started with, and what it asks for: closed descriptors, limits, times without an end.

let startScenarios = Group(
    "start",
    Scenario("standard-descriptors", "no socket of ours becomes descriptor 0, 1 or 2", standardDescriptors),
    Scenario("endless-durations", "for a server, and a table, a time without an end is one", endlessDurations),
    Scenario("endless-durations-of-a-pool", "for a pool a time without an end is one", endlessDurationsOfAPool),
    Scenario(
        "file-size-limit",
        "a file that has reached RLIMIT_FSIZE is an error for whoever writes in the parent, and no end of the server's",
        fileSizeLimit),
    Scenario(
        "zygote-file-size-limit", "a payload over RLIMIT_FSIZE is an error, and no end of a zygote's host",
        zygoteFileSizeLimit)
)

/// What is opened first in a process without descriptors 0, 1 and 2 takes the place of none.
private func standardDescriptors() throws {
    let openers: [() throws -> Void] = [
        { try expectHigh(Listener(SocketAddress(parsing: "127.0.0.1:0")).descriptor.rawValue) },
        { try expectHigh(ChildTable(maxChildren: 1).descriptor.rawValue) },
        {
            let zygote = try startZygote()
            try expectHigh(3)
            try expect(zygote.shutDownAndWait(), "the zygote lives on")
        },
    ]
    for (index, open) in openers.enumerated() {
        let child = foreignChild {
            for number in Int32(0)...2 { close(number) }
            return (try? open()) == nil ? 1 : 0
        }
        var status: Int32 = 0
        try expect(waitpid(child, &status, 0) == child && status == 0, "opener \(index): status \(status)")
    }
}

/// `descriptor` is above 2, and 0 to 2 are open.
private func expectHigh(_ descriptor: Int32) throws {
    try expect(descriptor > 2 && (0...2).allSatisfy { fcntl($0, F_GETFD) >= 0 }, "\(descriptor), \(openDescriptors())")
}

/// More seconds than 64 bits can count.
private let endless = Duration.seconds(1e19)

private func endlessDurations() throws {
    let server = try echoServer {
        $0.child.timeout = endless
        $0.idleTimeout = endless
        $0.ioTimeout = endless
        $0.drainTimeout = endless
        $0.child.killTimeout = endless
    }
    let client = try server.client()
    var ended = 0
    server.hooks.onEvent = { server, event in
        switch event {
        case .forked(_, let peer) where "\(peer)".hasSuffix(":\(client.port)"):
            try! client.echo("hello")
            client.finishSending()
        case .ended:
            ended += 1
            server.stop()
        default: break
        }
    }
    try server.serve()
    try expect(ended >= 1, "nobody was served")
    let table = try ChildTable(maxChildren: 1)
    var options = ChildOptions()
    options.timeout = endless
    try table.fork(options: options) { 0 }
    try expect(try table.wait(atMost: endless), "it does not wait for ever")
}

private func endlessDurationsOfAPool() throws {
    var configuration = PreforkServer.Configuration()
    configuration.workers = 1
    configuration.requestTimeout = endless
    configuration.heartbeatTimeout = endless
    configuration.ioTimeout = endless
    configuration.maxAge = endless
    configuration.startTimeout = endless
    configuration.drainTimeout = endless
    configuration.child.killTimeout = endless
    let server = try PreforkServer(
        Listener(SocketAddress(parsing: "127.0.0.1:0")), configuration: configuration
    ) { connection, _ in
        while let line = try connection.readLine() { try connection.write(line) }
    }
    var ended = 0
    server.hooks.onEvent = { server, event in
        if case .serving(let addresses) = event {
            let client = try! Client("\(addresses[0])")
            try! client.echo("hello")
            client.finishSending()
            server.stop()
        }
        if case .ended = event { ended += 1 }
    }
    try server.serve()
    try expect(ended == 1, "\(ended) workers")
}

/// No file of this process's can be longer from now on.
private func limitFiles(to size: rlim_t) {
    var limit = rlimit()
    getrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
    limit.rlim_cur = size
    setrlimit(__rlimit_resource_t(RLIMIT_FSIZE.rawValue), &limit)
}

/// What a server's hook writes beyond that is an error, and no end of the server's; children have the signal as ever.
private func fileSizeLimit() throws {
    var template = Array("/tmp/forking-size-XXXXXX".utf8CString)
    let file = mkstemp(&template)
    defer {
        close(file)
        unlink(template)
    }
    let server = try ForkingServer(Listener(SocketAddress(parsing: "127.0.0.1:0"))) { connection in
        try connection.write("\(disposition(of: SIGXFSZ))\n")
    }
    let client = try server.client()
    var code: Int32 = 0
    server.hooks.onEvent = { server, event in
        guard case .forked = event else { return }
        limitFiles(to: 4096)
        code = pwrite(file, [1], 1, 4096) < 0 ? errno : 0
        server.stop()
    }
    try server.serve()
    try expect(code == EFBIG, "the write's errno is \(code)")
    try expect(try client.receiveAll() == "0\n", "the child ignores SIGXFSZ, or was not there")
    try expect(disposition(of: SIGXFSZ) == 0, "it is ignored for good")
}

/// In somebody's process no signal is ignored: a payload that is larger than a file may be is an error all the same.
private func zygoteFileSizeLimit() throws {
    let zygote = try startZygote()
    limitFiles(to: 4096)
    do {
        _ = try zygote.runAndWait("echo", [UInt8](repeating: 1, count: 100_000))
        throw Failure("it was sent")
    } catch let error as ForkingError where error.errno == .fileTooLarge {
        try expect(error.call == "write", "\(error)")
    }
    try expect(disposition(of: SIGXFSZ) == 0 && !isBlocked(SIGXFSZ), "SIGXFSZ is not as it was")
    try expect(try zygote.runAndWait("echo", [1, 2, 3]).bytes == [1, 2, 3], "no answer after that")
    try expect(zygote.shutDownAndWait(), "the zygote lives on")
}
