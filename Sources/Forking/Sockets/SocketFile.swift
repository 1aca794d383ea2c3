// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// The file of a Unix socket that this process created. Parent.
final class SocketFile {
    private let path: SocketPath
    private let device: dev_t
    private let inode: ino_t
    private let owner = forkcore_process()
    var isLeft = false
    /// Kept open until the file is removed: if it were closed first, a successor could take the file for stale, and
    /// this process the successor's file for its own.
    private let socket: ParentDescriptor

    /// - Parameters:
    ///   - permissions: nil leaves them. bind(2) has applied them already, except for bits that the umask removed.
    ///   - group: nil leaves it.
    /// - Throws: `ForkingError.Code.invalid` if the file is not what bind(2) has just created: the owner of the
    ///   directory may have replaced it. The replacement is left alone.
    init(
        _ path: SocketPath, of socket: ParentDescriptor, permissions: FilePermissions? = nil, group: gid_t? = nil
    ) throws(ForkingError) {
        self.socket = socket
        self.path = path
        var made = stat()
        lstat(path.c, &made)
        if permissions != nil || group != nil {
            made = try Self.change(path, to: permissions, group)
        }
        device = made.st_dev
        inode = made.st_ino
    }

    /// Uses a descriptor, because the name may refer to another file a moment later.
    private static func change(
        _ path: SocketPath, to permissions: FilePermissions?, _ group: gid_t?
    ) throws(ForkingError) -> stat {
        var file: Int32 = -1
        try check(forkcore_open_path(path.c, &file), "open \(path)")
        defer { forkcore_close(file) }
        var found = stat()
        try check(failure(of: fstat(file, &found)), "fstat \(path)")
        guard found.st_mode & S_IFMT == S_IFSOCK, found.st_nlink == 1, found.st_uid == geteuid() else {
            throw .invalid("\(path) was replaced while it was made; what is there now was left as it is")
        }
        if let group, group != found.st_gid {
            try checkMade(chown("/proc/self/fd/\(file)", .max, group), "chown", path, file)
        }
        if let permissions, permissions.rawValue != found.st_mode & 0o7777 {
            try checkMade(chmod("/proc/self/fd/\(file)", permissions.rawValue), "chmod", path, file)
        }
        return found
    }

    /// Removes a file that could not be given what was asked for.
    private static func checkMade(_ result: Int32, _ call: String, _ path: SocketPath, _ file: Int32)
        throws(ForkingError)
    {
        let code = failure(of: result)
        guard code != 0 else { return }
        var (made, now) = (stat(), stat())
        if fstat(file, &made) == 0, lstat(path.c, &now) == 0, made.st_ino == now.st_ino { unlink(path.c) }
        throw .system(call: "\(call) \(path)", Errno(rawValue: code))
    }

    /// Removes the file only if this process created it and no successor replaced it; never in a child, whose parent
    /// still serves on it.
    deinit {
        guard owner == forkcore_process(), !isLeft else { return }
        var now = stat()
        if lstat(path.c, &now) == 0, now.st_dev == device, now.st_ino == inode { unlink(path.c) }
    }

    /// Removes the file of a socket on which no server listens any more.
    static func clearStale(_ path: SocketPath, _ address: SocketAddress, datagram: Bool) throws(ForkingError) {
        var found = stat()
        guard lstat(path.c, &found) == 0 else { return }
        guard found.st_mode & S_IFMT == S_IFSOCK else {
            throw .invalid("\(path) exists and is not a socket; it was left as it is")
        }
        switch address.withSockaddr({ forkcore_probe_unix($0, $1, datagram) }) {
        case ECONNREFUSED:
            unlink(path.c)
        case 0, EAGAIN, EPROTOTYPE:
            throw .invalid("another server is listening on \(path); it was left as it is")
        case let code:
            throw .system(call: "connect \(address)", Errno(rawValue: code))
        }
    }
}

/// Keeps other servers of this library from checking, replacing or creating a Unix socket in a directory at the same
/// time: two servers that start together would otherwise each take the other's new socket for stale. flock(2), which
/// leaves no file behind.
final class DirectoryLock {
    private let directory: Int32

    /// If the directory cannot be opened, nothing is locked; bind(2) then reports what is wrong with it.
    init(around path: SocketPath) {
        directory = Glibc.open(path.parent.c, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard directory >= 0 else { return }
        for _ in 0..<200 {
            guard [EWOULDBLOCK, EINTR].contains(failure(of: flock(directory, LOCK_EX | LOCK_NB))) else { return }
            usleep(10_000)  // a server holds it for microseconds; do not wait long for another holder
        }
    }

    deinit {
        if directory >= 0 { forkcore_close(directory) }
    }
}
