// SPDX-License-Identifier: Apache-2.0

import Glibc
import SystemPackage
import TestSupport
import Testing

@testable import Forking

@Suite("Listener on a Unix socket")
struct UnixListenerTests {
    private let directory = try! TemporaryDirectory()
    private var path: String { directory.path + "/s" }
    private var address: SocketAddress { get throws { try SocketAddress(unix: path) } }

    private func inode(_ path: String) -> ino_t? {
        var found = stat()
        return lstat(path, &found) == 0 ? found.st_ino : nil
    }

    /// Leaves a socket's file behind, as a server does that was killed.
    private func leaveStaleSocket(_ type: __socket_type) throws {
        let socket = socket(AF_UNIX, Int32(type.rawValue | SOCK_CLOEXEC.rawValue), 0)
        defer { close(socket) }
        try expect(address.withSockaddr { bind(socket, $0, $1) } == 0, "bind")
        if type == SOCK_STREAM { listen(socket, 1) }
    }

    @Test("its file is there while it is, and can be connected to")
    func file() throws {
        do {
            let listener = try Listener(address)
            expectEqual(listener.address.description, "unix:\(path)")
            _ = try Client(listener.address.description)
            #expect(access(path, F_OK) == 0)
        }
        #expect(access(path, F_OK) != 0)
    }

    @Test("a stale file is replaced", arguments: [false, true], [false, true])
    func stale(staleIsDatagram: Bool, newIsDatagram: Bool) throws {
        try leaveStaleSocket(staleIsDatagram ? SOCK_DGRAM : SOCK_STREAM)
        let listener = try bindOnceFree(address, datagram: newIsDatagram)
        expectEqual(listener.isDatagram, newIsDatagram)
    }

    @Test("a live one is an error and stays untouched", arguments: [false, true], [false, true])
    func live(firstIsDatagram: Bool, secondIsDatagram: Bool) throws {
        let first = try Listener(address, datagram: firstIsDatagram)
        let before = inode(path)
        let said = refusal { try Listener(address, datagram: secondIsDatagram) }
        #expect(said == "another server is listening on \(path); it was left as it is")
        #expect(inode(path) == before)
        if !firstIsDatagram { _ = try Client(first.address.description) }
        withExtendedLifetime(first.descriptor) {}
    }

    @Test("a live one whose queue is full is alive")
    func full() throws {
        var options = Listener.Options()
        options.backlog = 1
        let first = try Listener(address, options: options)
        let clients = try (0..<2).map { _ in try Client(first.address.description) }
        #expect(refusal { try Listener(address) }?.hasPrefix("another server is listening") == true)
        withExtendedLifetime(clients) {}
    }

    @Test("what is no socket is left alone", arguments: ["file", "directory", "link", "fifo"])
    func inTheWay(_ kind: String) throws {
        switch kind {
        case "file": close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0o600))
        case "directory": mkdir(path, 0o700)
        case "link": symlink("/nonexistent", path)
        default: mkfifo(path, 0o600)
        }
        let before = try #require(inode(path))
        let said = refusal { try Listener(address) }
        #expect(said == "\(path) exists and is not a socket; it was left as it is")
        #expect(inode(path) == before)
    }

    @Test("a directory that is not there is named")
    func noDirectory() throws {
        let said = refusal { try Listener(SocketAddress(unix: directory.path + "/none/s")) }
        #expect(said == "bind unix:\(directory.path)/none/s: No such file or directory")
    }

    @Test("at its end it removes its own file, and no successor's")
    func successor() throws {
        var first: Listener? = try Listener(address)
        unlink(path)
        let second = try Listener(address)
        let before = inode(path)
        first = nil
        let isGone = first == nil
        #expect(isGone)
        #expect(inode(path) == before)
        _ = try Client(second.address.description)
    }

    @Test("an abstract name is bound, taken once, and leaves no file")
    func abstract() throws {
        let address = try SocketAddress(unix: "@" + path)
        do {
            let listener = try Listener(address)
            expectEqual(listener.address, address)
            #expect(refusal { try Listener(address) } == "bind \(address): Address already in use")
            #expect(access(path, F_OK) != 0)
        }
        _ = try bindOnceFree(address)
    }

    @Test("its file has the permissions asked for", arguments: [0o600, 0o660, 0o666, 0o777] as [CInterop.Mode])
    func permissions(_ mode: CInterop.Mode) throws {
        var options = Listener.Options()
        options.permissions = FilePermissions(rawValue: mode)
        let listener = try Listener(address, options: options)
        var found = stat()
        #expect(lstat(path, &found) == 0 && found.st_mode & 0o7777 == mode)
        withExtendedLifetime(listener.descriptor) {}
    }

    @Test("permissions that the umask would take away are given, and a group", .serialized, arguments: [0o666, 0o660])
    func group(_ mode: CInterop.Mode) throws {
        var options = Listener.Options()
        options.permissions = FilePermissions(rawValue: mode)
        options.group = 12_345
        try #require(geteuid() == 0, "this test takes root")
        let listener = try Listener(address, options: options)
        var found = stat()
        #expect(lstat(path, &found) == 0 && found.st_mode & 0o7777 == mode && found.st_gid == 12_345)
        withExtendedLifetime(listener.descriptor) {}
    }

    @Test(
        "what stands in its file's place is not given other permissions",
        arguments: ["link", "file", "linked socket"] + (geteuid() == 0 ? ["another's socket"] : []))
    func swapped(_ kind: String) throws {
        // As the directory's owner can have it between bind(2) and what comes next.
        let other = directory.path + "/other"
        let victim = try boundSocket("unix:\(other)")
        defer { close(victim) }
        if kind == "file" { close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0o600)) }
        if kind == "link" { symlink(other, path) }
        if kind == "linked socket" { link(other, path) }
        if kind == "another's socket" {
            close(try boundSocket("unix:\(path)"))
            chown(path, 65_534, 65_534)
        }
        chmod(other, 0o600)
        let socket = ParentDescriptor(dup(victim))
        #expect(
            refusal {
                try SocketFile(
                    SocketPath(Array(path.utf8)), of: socket, permissions: .ownerReadWriteExecute, group: 12_345)
            } != nil)
        var found = stat()
        #expect(stat(other, &found) == 0 && found.st_mode & 0o777 == 0o600 && found.st_gid == getegid())
        #expect(stat(path, &found) == 0 && found.st_gid != 12_345)
    }
}
