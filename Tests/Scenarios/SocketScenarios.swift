// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import SystemPackage
import TestSupport

let socketScenarios = Group(
    "socket",
    Scenario("failing-binds", "1,024 failing binds leave no descriptor", failingBinds),
    Scenario("listener-in-child", "a listener that goes away in a child leaves its parent's file", listenerInChild),
    Scenario(
        "descriptor-in-child", "a listener that goes away in a child closes nothing of the child's", descriptorInChild),
    Scenario("handed-over", "sockets that a service manager handed over are taken, others are not", handedOver)
)

/// Far more failures than there can be descriptors.
private func failingBinds() throws {
    let directory = try TemporaryDirectory()
    let tcp = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    let unix = try Listener(SocketAddress(unix: directory.path + "/s"))
    let file = try SocketAddress(unix: directory.path + "/none/s")
    for _ in 0..<1024 {
        for address in [tcp.address, unix.address, file] {
            do {
                _ = try Listener(address)
                throw Failure("\(address) was bound twice")
            } catch let error as ForkingError {
                if error.errno == .tooManyOpenFiles { throw Failure("descriptors leaked: \(error)") }
            }
        }
    }
}

/// Something that lets its listener go when told.
private final class Owner {
    private var listener: Listener?
    init(_ listener: consuming Listener) { self.listener = consume listener }
    func drop() { listener = nil }
}

/// A child has a copy of its parent's listener. Its end there must not take the parent's file away.
private func listenerInChild() throws {
    let directory = try TemporaryDirectory()
    let path = directory.path + "/s"
    let owner = Owner(try Listener(SocketAddress(unix: path)))
    let table = try ChildTable(maxChildren: 1)
    try table.fork {
        owner.drop()
        return 0
    }
    try expect(table.wait(atMost: .seconds(30)), "the child did not end")
    try expect(access(path, F_OK) == 0, "the child removed the file of its parent's socket")
    _ = try Client("unix:" + path)
    owner.drop()
    try expect(access(path, F_OK) != 0, "the parent left its file")
}

/// What the parent had is closed in the child already, so the numbers may stand for what the child opened.
private func descriptorInChild() throws {
    let listener = try Listener(SocketAddress(parsing: "127.0.0.1:0"))
    let number = listener.descriptor.rawValue
    let owner = Owner(listener)
    let table = try ChildTable(maxChildren: 1)
    var status: ExitStatus?
    table.onExit = { status = $0.status }
    try table.fork {
        guard fcntl(number, F_GETFD) < 0, dup2(0, number) == number else { return 1 }
        owner.drop()
        return fcntl(number, F_GETFD) < 0 ? 2 : 0
    }
    try expect(table.wait(atMost: .seconds(30)), "the child did not end")
    try expect(status == .exited(code: 0), "the child: \(status!)")
    owner.drop()
}

/// LISTEN_FDS, as a service manager sets it.
private func handedOver() throws {
    func take(_ pid: String?, _ count: String?, names: String = "a:b") throws -> [FileDescriptor] {
        for (name, value) in [("LISTEN_PID", pid), ("LISTEN_FDS", count), ("LISTEN_FDNAMES", names)] {
            unsetenv(name)
            if let value { setenv(name, value, 1) }
        }
        return try InheritedSockets.take()
    }
    let mine = String(getpid())
    try expect(take(nil, nil).isEmpty && take(mine, nil).isEmpty && take(nil, "1").isEmpty, "half of it was taken")
    try expect(take("1", "1").isEmpty && getenv("LISTEN_FDS") != nil, "another process's was taken")
    try expect(take(mine, "0").isEmpty && getenv("LISTEN_FDS") == nil, "0 is none")
    for wrong in ["", "x", "-1", "1x", "99999999999", "2147483647"] {
        do {
            _ = try take(mine, wrong)
            throw Failure("LISTEN_FDS='\(wrong)' was taken")
        } catch let error as ForkingError where error.code == .invalid {
            let reason = error.description
            try expect(reason.contains("LISTEN_FDS is '\(wrong)'"), reason)
            try expect(getenv("LISTEN_PID") == nil, "the variables are left")
        }
    }
    try expect(dup2(0, 3) == 3 && dup2(0, 4) == 4, "dup2")
    try expect(take(mine, "2").map(\.rawValue) == [3, 4], "3 and 4 were handed over")
    for descriptor: Int32 in [3, 4] {
        try expect(fcntl(descriptor, F_GETFD) & FD_CLOEXEC != 0, "\(descriptor) goes on to programs")
        try expect(getenv("LISTEN_FDS") == nil && getenv("LISTEN_FDNAMES") == nil, "the variables are left")
        close(descriptor)
    }
    do {
        _ = try take(mine, "1", names: "a")
        throw Failure("a closed descriptor was taken")
    } catch let error as ForkingError where error.code == .invalid {
        let reason = error.description
        try expect(reason.contains("descriptor 3 is not open"), reason)
    }
}
