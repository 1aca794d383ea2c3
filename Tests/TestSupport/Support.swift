// SPDX-License-Identifier: Apache-2.0

import Glibc
import Synchronization

/// Why a test fails.
public struct Failure: Error, CustomStringConvertible {
    public let description: String
    public init(_ description: String) { self.description = description }
}

/// Throws unless `condition` holds.
public func expect(
    _ condition: @autoclosure () throws -> Bool, _ text: @autoclosure () -> String, line: Int = #line
) throws {
    if try !condition() { throw Failure("line \(line): \(text())") }
}

/// Waits for something that no descriptor announces, such as another process's state in /proc. Generous: only what
/// hangs takes this long, on a machine that has other things to do too.
public func eventually(
    within seconds: Double = 60, _ text: @autoclosure () -> String, _ condition: () throws -> Bool
) throws {
    let end = now() + seconds
    while try !condition() {
        guard now() < end else { throw Failure(text()) }
        usleep(2000)
    }
}

/// Seconds of CLOCK_MONOTONIC.
public func now() -> Double {
    var time = timespec()
    clock_gettime(CLOCK_MONOTONIC, &time)
    return Double(time.tv_sec) + Double(time.tv_nsec) / 1e9
}

/// Held while a pipe is made or a program is started: tests run in parallel, and between pipe(2) and fcntl(2) another
/// test's program would inherit the ends.
let inheritance = Mutex(())

/// A close-on-exec pipe.
public func pipe() throws -> (read: Int32, write: Int32) {
    try inheritance.withLock { _ in try makePipe() }
}

func makePipe() throws -> (read: Int32, write: Int32) {
    var ends: [Int32] = [0, 0]
    guard Glibc.pipe(&ends) == 0 else { throw Failure("pipe: \(String(cString: strerror(errno)))") }
    for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
    return (ends[0], ends[1])
}

public func contents(of path: String) -> String? {
    let file = open(path, O_RDONLY | O_CLOEXEC)
    guard file >= 0 else { return nil }
    defer { close(file) }
    var all: [UInt8] = []
    var piece = [UInt8](repeating: 0, count: 65_536)
    while case let count = read(file, &piece, piece.count), count > 0 { all += piece.prefix(count) }
    return String(decoding: all, as: UTF8.self)
}

public func entries(of directory: String) -> [String] {
    guard let stream = opendir(directory) else { return [] }
    defer { closedir(stream) }
    var names: [String] = []
    while let entry = readdir(stream) {
        names.append(
            withUnsafeBytes(of: entry.pointee.d_name) { String(decoding: $0.prefix { $0 != 0 }, as: UTF8.self) })
    }
    return names.filter { $0 != "." && $0 != ".." }
}

/// A directory that goes away with everything in it.
public final class TemporaryDirectory {
    public let path: String

    public init() throws {
        var template = Array("/tmp/forking-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Failure("mkdtemp: \(String(cString: strerror(errno)))") }
        path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    deinit {
        if let rm = try? Running("rm", ["-rf", path]) { _ = try? rm.wait() }
    }
}

/// Where the programs of this package were built: beside the test bundle.
public func builtProgram(_ name: String) -> String {
    var path = [CChar](repeating: 0, count: 4096)
    readlink("/proc/self/exe", &path, path.count - 1)
    var directory = String(decoding: path.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)), as: UTF8.self)
    // The runner is the bundle itself with XCTest, and a tool of the toolchain's that is given its path with others.
    let bundle = CommandLine.arguments.first { $0.hasSuffix(".xctest") }
    if let bundle { directory = bundle }
    return directory[..<(directory.lastIndex(of: "/") ?? directory.startIndex)] + "/" + name
}

/// Whether a program is installed.
public func isInstalled(_ program: String) -> Bool {
    let path = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
    // Not in one expression: it would be taken to split into arrays of characters.
    let directories = path.split(separator: ":").map(String.init)
    return (directories + ["/usr/sbin", "/sbin"]).contains { access("\($0)/\(program)", X_OK) == 0 }
}

/// A socket bound to an address, listening unless it is for datagrams, for a server to inherit.
public func boundSocket(_ address: String, datagram: Bool = false) throws -> Int32 {
    try withAddress(address) { family, pointer, length in
        let type = datagram ? SOCK_DGRAM : SOCK_STREAM
        let descriptor = socket(family, Int32(type.rawValue | SOCK_CLOEXEC.rawValue), 0)
        guard bind(descriptor, pointer, length) == 0, datagram || listen(descriptor, 16) == 0 else {
            throw Failure("bind or listen \(address): \(String(cString: strerror(errno)))")
        }
        return descriptor
    }
}
