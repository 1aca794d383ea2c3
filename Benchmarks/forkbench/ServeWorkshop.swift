// SPDX-License-Identifier: Apache-2.0

import CForkbench
import Glibc

/// Why a peer cannot be measured here, and the command that would change it.
struct Missing: Error {
    let reason: String
    let remedy: String
}

/// Finds the peers' programs, or builds them in a directory of its own that goes with it.
final class Workshop {
    /// Our server's program, dynamically and statically linked, and the example.
    typealias Ours = (dynamic: String?, static: String?, hummingbird: String?)

    private let directory: String
    private let package: String
    private let besides: String
    private let given: Ours

    /// - Parameters:
    ///   - package: where Benchmarks/Peers is; by default looked for from this program upwards.
    ///   - given: our programs; by default where they are built.
    init(package: String?, _ given: Ours) throws {
        let program = Self.ownPath()
        guard let package = package ?? Self.packageAbove(program) else {
            throw Shortage("the sources of the peers were not found above \(program): say --package DIRECTORY")
        }
        guard access(package + "/Benchmarks/Peers", R_OK) == 0 else {
            throw Shortage("there is no \(package)/Benchmarks/Peers: --package must be this package's directory")
        }
        self.package = package
        self.given = given
        besides = Self.parent(program)
        var template = Array((getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp").utf8CString.dropLast())
        template += "/forkbench.XXXXXX".utf8CString
        guard mkdtemp(&template) != nil else { throw Shortage(call: "mkdtemp") }
        directory = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    deinit {
        if let entries = opendir(directory) {
            while let entry = readdir(entries) {
                let name = withUnsafePointer(to: &entry.pointee.d_name) {
                    $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
                }
                if unlink(path(name)) != 0, name != ".", name != ".." { rmdir(path(name)) }
            }
            closedir(entries)
        }
        rmdir(directory)
    }

    func path(_ name: String) -> String { "\(directory)/\(name)" }

    /// For a server whose workers have given up our user: they may look up names that they know.
    func openToAll() throws {
        guard chmod(directory, 0o711) == 0 else { throw Shortage(call: "chmod \(directory)") }
    }

    func source(_ name: String) -> String { "\(package)/Benchmarks/Peers/\(name)" }

    func write(_ name: String, _ text: String, mode: mode_t = 0o600) throws -> String {
        let descriptor = open(path(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0, fchmod(descriptor, mode) == 0 else { throw Shortage(call: "open \(path(name))") }
        defer { close(descriptor) }
        guard writeAll(text, to: descriptor) else { throw Shortage(call: "write \(path(name))") }
        return path(name)
    }

    // MARK: Ours

    func forkserve() throws -> String {
        try ours(given.dynamic ?? "\(besides)/forkserve", "swift build -c release --package-path Benchmarks")
    }

    func staticForkserve() throws -> String {
        try ours(given.static ?? "\(package)/.build-static/release/forkserve", "Benchmarks/static-build")
    }

    /// The same application in workers, and in one process.
    typealias Hummingbirds = (prefork: String, plain: String)

    func hummingbird() throws -> Hummingbirds {
        let directory = given.hummingbird ?? "\(package)/Examples/.build/release"
        let remedy = "swift build --package-path Examples -c release"
        return try (
            ours("\(directory)/PreforkHummingbird", remedy), ours("\(directory)/PlainHummingbird", remedy)
        )
    }

    private func ours(_ program: String, _ remedy: String) throws -> String {
        guard access(program, X_OK) == 0 else {
            throw Missing(reason: "there is no \(program)", remedy: remedy)
        }
        return program
    }

    // MARK: Others

    /// Compiles one of the peers' sources, once.
    func compiled(_ name: String, as target: String, _ options: [String] = []) throws -> String {
        if access(path(target), X_OK) == 0 { return path(target) }
        let remedy = "apt-get install gcc libc6-dev"
        guard let compiler = Self.find("cc") else { throw Missing(reason: "there is no cc", remedy: remedy) }
        let result = try Command.run([compiler, "-O2"] + options + ["-o", path(target), source(name)])
        guard result.status == 0 else {
            throw Missing(reason: "cc cannot compile \(name): \(result.errors)", remedy: remedy)
        }
        return path(target)
    }

    /// What every server that executes a program executes.
    func echo() throws -> String { try compiled("echo.c", as: "echo", ["-static"]) }

    /// The first of these programs that there is.
    func installed(_ names: [String], by debianPackage: String) throws -> String {
        guard let found = names.lazy.compactMap(Self.find).first else {
            throw Missing(reason: "there is no \(names.last!)", remedy: "apt-get install \(debianPackage)")
        }
        return found
    }

    /// There may be several Perls, and only the system's has the system's modules.
    func perlWithNetServer() throws -> String {
        let remedy = "libnet-server-perl"
        for name in ["/usr/bin/perl", "perl"] {
            guard let perl = Self.find(name) else { continue }
            if try Command.run([perl, "-MNet::Server::Fork", "-e", "1"]).status == 0 { return perl }
        }
        throw Missing(reason: "no perl has Net::Server", remedy: "apt-get install \(remedy)")
    }

    // MARK: Paths

    /// As a shell would.
    private static func find(_ name: String) -> String? {
        if name.contains("/") { return access(name, X_OK) == 0 ? name : nil }
        let directories = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
        return directories.split(separator: ":").lazy.map { "\($0)/\(name)" }.first { access($0, X_OK) == 0 }
    }

    static func ownPath() -> String {
        var bytes = [UInt8](repeating: 0, count: Int(PATH_MAX))
        let count = bytes.withUnsafeMutableBytes {
            readlink("/proc/self/exe", $0.assumingMemoryBound(to: CChar.self).baseAddress!, $0.count)
        }
        return String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self)
    }

    private static func packageAbove(_ program: String) -> String? {
        var directory = parent(program)
        while !directory.isEmpty {
            if access(directory + "/Benchmarks/Peers", R_OK) == 0 { return directory }
            directory = parent(directory)
        }
        return nil
    }

    static func parent(_ path: String) -> String {
        String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)])
    }
}
