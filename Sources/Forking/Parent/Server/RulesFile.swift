// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// The file that address rules are read from, and read again when it has changed. Parent.
struct RulesFile: ~Copyable {
    /// What stat(2) says of a version of the file.
    private struct Version: BitwiseCopyable, Equatable {
        var device: dev_t = 0
        var inode: ino_t = 0
        var size: off_t = 0
        var seconds = 0
        var nanoseconds = 0
    }

    private struct State: BitwiseCopyable {
        var version: Version?
        var nextLook: Instant
    }

    /// The pause between two looks, which happen when clients come.
    private static let pause = Duration.seconds(1)
    private static let largest = 64 << 20

    private let path: String
    private let state: ParentCell<State>

    init(_ path: String) throws(ForkingError) {
        self.path = path
        state = try ParentCell(State(version: nil, nextLook: .now))
    }

    /// Whether the file is another one than was read last. Looks once in a while.
    func hasChanged(_ now: Instant) -> Bool {
        guard state.value.nextLook <= now else { return false }
        state.value.nextLook = now + Self.pause
        return version != state.value.version
    }

    private var version: Version? {
        var found = stat()
        guard stat(path, &found) == 0 else { return nil }
        return Version(
            device: found.st_dev, inode: found.st_ino, size: found.st_size, seconds: found.st_mtim.tv_sec,
            nanoseconds: found.st_mtim.tv_nsec)
    }

    /// Reads the file. What it says of its version is remembered even if the rules are wrong, so that they are not read
    /// again before they have changed.
    func read() throws(ForkingError) -> AddressRules {
        state.value.version = version
        let name = ForkingError.printable(path)
        do {
            // A pipe is opened without waiting for somebody who writes to it, and then refused.
            let file = try FileDescriptor.open(FilePath(path), .readOnly, options: [.closeOnExec, .nonBlocking])
            return try file.closeAfter {
                var found = stat()
                guard fstat(file.rawValue, &found) == 0, found.st_mode & S_IFMT == S_IFREG else {
                    throw ForkingError.invalid("\(name) is not a regular file, as a file of rules must be")
                }
                var bytes: [UInt8] = []
                var count = 1
                while count > 0 {
                    guard bytes.count <= Self.largest else {
                        throw ForkingError.invalid("\(name) has more than \(Self.largest) bytes, too many for rules")
                    }
                    let piece = try [UInt8](unsafeUninitializedCapacity: 65_536) { buffer, filled in
                        filled = try file.read(into: UnsafeMutableRawBufferPointer(buffer))
                    }
                    count = piece.count
                    bytes += piece
                }
                return try AddressRules(parsing: String(decoding: bytes, as: UTF8.self), file: name)
            }
        } catch let error as ForkingError {
            throw error
        } catch {
            throw .system(call: "read \(name)", error as? Errno ?? .ioError)
        }
    }
}
