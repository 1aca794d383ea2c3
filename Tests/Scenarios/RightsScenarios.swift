// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Forking
import Glibc
import SystemPackage
import TestSupport

// Clients of Unix sockets that attach descriptors which nobody takes, and whose closing takes as long as they arranged.

let rightsScenarios = Group(
    "rights",
    Scenario("attached-refused", "no descriptors can be attached where none are expected", attachedIsRefused),
    Scenario(
        "attached-to-refused-client", "what a refused client attached holds nobody up when it is closed",
        attachedToRefusedClient),
    Scenario(
        "attached-to-queued-client", "what a client in the queue attached does not hold up who closes the listener",
        attachedToQueuedClient),
    Scenario(
        "attached-to-held-client", "what a client without a child attached does not hold up the end of the drain",
        attachedToHeldClient),
    Scenario(
        "attached-to-program", "what the client of a program attached holds nobody up when it is closed",
        attachedToProgram),
    Scenario(
        "attached-to-datagram", "what was attached to a datagram does not hold up the next one", attachedToDatagram),
    Scenario(
        "attached-to-adopted", "what was attached before a listener was adopted holds nobody up when it is closed",
        attachedToAdopted),
    Scenario("attached-by-child", "a child cannot attach any to what it says to its parent", attachedByChild)
)

/// A TCP socket with bytes that nobody reads, closing which waits a minute for a reader.
private final class Lingering {
    private let peer: Int32
    private(set) var descriptor: Int32

    static let seconds = 60.0

    init() throws {
        let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
        descriptor = try withAddress("\(listener.address)") { family, pointer, length in
            let one = socket(family, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
            try expect(connect(one, pointer, length) == 0, "connect")
            return one
        }
        peer = accept(listener.descriptor.rawValue, nil, nil)
        let much = [UInt8](repeating: 0, count: 65_536)
        while send(descriptor, much, much.count, Int32(MSG_DONTWAIT)) > 0 {}
        var long = linger(l_onoff: 1, l_linger: Int32(Self.seconds))
        setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &long, socklen_t(MemoryLayout<linger>.size))
    }

    /// The copy that `body` attaches to something is the last one then.
    func attach(on socket: Int32) throws {
        try expect(forkcore_hand_over(socket, descriptor, [1], 1) == 0, "it could not be attached")
        close(descriptor)
        descriptor = -1
    }

    deinit {
        close(peer)  // a reset: from now on nobody waits
        if descriptor >= 0 { close(descriptor) }
    }
}

/// Throws if `body` has waited for what lingers.
private func withoutWaiting(_ body: () throws -> Void) throws {
    let began = now()
    try body()
    try expect(now() - began < Lingering.seconds / 2, "it took \(now() - began) s")
}

private func openListener(_ path: String, datagram: Bool = false) throws -> Listener {
    var options = Listener.Options()
    options.acceptsDescriptors = true  // as where the kernel cannot refuse them
    return try Listener(SocketAddress(unix: path), datagram: datagram, options: options)
}

private func expectRefused(_ socket: Int32, _ name: String) throws {
    let code = forkcore_hand_over(socket, 0, [1], 1)
    try expect(code == EPERM, "\(name) takes descriptors: \(code)")
}

/// Nobody can attach any where none is expected.
private func attachedIsRefused() throws {
    let directory = try TemporaryDirectory()
    let ends = try socketPair()
    let isOld = forkcore_refuse_rights(ends.0) == ENOPROTOOPT
    close(ends.0)
    close(ends.1)
    if isOld { return }
    let stream = try Listener(SocketAddress(unix: directory.path + "/s"))
    let datagrams = try Listener(SocketAddress(unix: directory.path + "/d"), datagram: true)
    let client = try Client("\(stream.address)"), sender = try DatagramClient("\(datagrams.address)")
    try expectRefused(client.descriptor, "a connection")
    try expectRefused(sender.descriptor, "a datagram socket")
    let bound = try boundSocket("unix:\(directory.path)/adopted")
    let adopted = try Listener(adopting: FileDescriptor(rawValue: bound))
    let other = try Client("\(adopted.address)")
    try expectRefused(other.descriptor, "a connection of an adopted listener")
    let server = try echoServer { $0.control = try? SocketAddress(unix: "@forking-attached-\(getpid())") }
    server.hooks.onTurn = { server in
        defer { server.stop() }
        guard let asking = try? Client("\(server.configuration.control!)") else { return }
        do { try expectRefused(asking.descriptor, "a control socket") } catch { fatalError("\(error)") }
    }
    try server.serve()
    withExtendedLifetime((stream.descriptor, datagrams.descriptor, adopted.descriptor)) {}
}

/// The parent closes the last copy of a connection that it does not serve.
private func attachedToRefusedClient() throws {
    let directory = try TemporaryDirectory()
    let server = try ForkingServer(openListener(directory.path + "/s")) { try $0.write("served\n") }
    var seen = 0
    server.hooks.verifyConnection = { _, _ in
        seen += 1
        return seen > 1
    }
    server.hooks.onEvent = { server, event in if case .ended = event { server.stop() } }
    let lingering = try Lingering()
    let hostile = try Client("\(server.address)"), honest = try Client("\(server.address)")
    try lingering.attach(on: hostile.descriptor)
    try withoutWaiting { try server.serve() }
    try expect(try honest.receiveAll() == "served\n", "the next client was not served")
}

/// What is queued is closed with the listener.
private func attachedToQueuedClient() throws {
    let directory = try TemporaryDirectory()
    let lingering = try Lingering()
    let listener = try openListener(directory.path + "/s")
    let hostile = try Client("\(listener.address)")
    try lingering.attach(on: hostile.descriptor)
    let owner = Dropping(listener)
    try withoutWaiting { owner.drop() }
}

/// Accepted, but without a child to serve it, it is closed at the end of the drain.
private func attachedToHeldClient() throws {
    let directory = try TemporaryDirectory()
    let lingering = try Lingering()
    var configuration = ForkingServer.Configuration()
    (configuration.maxChildren, configuration.drainTimeout) = (1, .milliseconds(100))
    let server = try ForkingServer(openListener(directory.path + "/s"), configuration: configuration) { _ in
        _ = liveOn()
    }
    let first = try Client("\(server.address)"), hostile = try Client("\(server.address)")
    try lingering.attach(on: hostile.descriptor)
    server.hooks.onEvent = { server, event in if case .forked = event { server.stop() } }
    try withoutWaiting { try server.serve() }
    withExtendedLifetime(first) {}
}

private final class Dropping {
    private var listener: Listener?
    init(_ listener: consuming Listener) { self.listener = consume listener }
    func drop() { listener = nil }
}

/// A program that ends at once does so before the parent has closed its copies of the connection.
private func attachedToProgram() throws {
    let directory = try TemporaryDirectory()
    var configuration = ForkingServer.Configuration()
    configuration.maxChildren = 4
    let server = try ForkingServer(programs: openListener(directory.path + "/s"), configuration: configuration) { _ in
        Program(path: "/bin/true", arguments: ["true"])
    }
    var open = 0
    server.hooks.onEvent = { server, event in
        if case .forked(let pid, _) = event {
            try? expectZombie(pid)  // the parent's copies are the last ones then
            open = openDescriptors().count
        }
        if case .ended = event { server.stop() }
    }
    // First the accepted one is closed, then that which the program was made from.
    server.hooks.onTurn = { _ in try? eventually("it is open") { open == 0 || openDescriptors().count < open } }
    let lingering = try Lingering()
    let hostile = try Client("\(server.address)")
    try lingering.attach(on: hostile.descriptor)
    // Nobody else comes: a program that is made ready meanwhile would have copies of it until it is executed.
    try withoutWaiting { try server.serve() }
}

/// It is received by the parent.
private func attachedToDatagram() throws {
    let directory = try TemporaryDirectory()
    let server = try ForkingServer(datagrams: openListener(directory.path + "/d", datagram: true)) { datagram in
        try datagram.reply(datagram.bytes)
    }
    server.hooks.onEvent = { server, event in if case .ended = event { server.stop() } }
    let lingering = try Lingering()
    let client = try DatagramClient("\(server.address)", boundTo: directory.path + "/c")
    try lingering.attach(on: client.descriptor)
    try client.send("honest")
    try withoutWaiting { try server.serve() }
    try expect(try client.receive() == "honest", "the next datagram was not answered")
}

/// A client can have come before the listener was this program's.
private func attachedToAdopted() throws {
    let directory = try TemporaryDirectory()
    let lingering = try Lingering()
    let bound = try boundSocket("unix:\(directory.path)/s")
    let hostile = try Client("unix:\(directory.path)/s")
    try lingering.attach(on: hostile.descriptor)
    let server = try ForkingServer(Listener(adopting: FileDescriptor(rawValue: bound))) { _ in }
    server.hooks.verifyConnection = { _, _ in false }
    server.hooks.onEvent = { server, event in if case .rejected = event { server.stop() } }
    try withoutWaiting { try server.serve() }
}

/// A child of a server of datagrams has a channel to its parent, to ask for an answer.
private func attachedByChild() throws {
    let directory = try TemporaryDirectory()
    let server = try ForkingServer(datagrams: Listener(SocketAddress(unix: directory.path + "/d"), datagram: true)) {
        _ in
        let channel = openDescriptors().map(Int32.init).filter { forkcore_refuse_rights($0) == 0 }.max()
        guard let channel else { _exit(4) }  // a kernel that cannot refuse
        _exit(forkcore_hand_over(channel, 0, [1], 1) == EPERM ? 4 : 3)
    }
    var status: ExitStatus?
    server.hooks.onEvent = { server, event in
        guard case .ended(let exit) = event else { return }
        status = exit.status
        server.stop()
    }
    let client = try DatagramClient("\(server.address)", boundTo: directory.path + "/c")
    try client.send("honest")
    try server.serve()
    try expect(status == .exited(code: 4), "\(status!)")
}

private func socketPair() throws -> (Int32, Int32) {
    var ends: (Int32, Int32) = (-1, -1)
    try expect(forkcore_channel_open(&ends.0, &ends.1) == 0, "socketpair")
    return ends
}
