// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport
import Testing

import class Foundation.JSONSerialization
import struct Foundation.Data

/// Names of sockets that are no text, or that are to be taken for something else.
@Suite("forkserve and what sockets are called")
struct PeerNameTests {
    private let directory = try! TemporaryDirectory()

    private func rawAddress(_ name: [UInt8]) -> (sockaddr_un, socklen_t) {
        var unix = sockaddr_un()
        unix.sun_family = sa_family_t(AF_UNIX)
        withUnsafeMutableBytes(of: &unix.sun_path) { $0.copyBytes(from: name) }
        return (unix, socklen_t(MemoryLayout.offset(of: \sockaddr_un.sun_path)! + name.count))
    }

    private func call(_ name: [UInt8], _ body: (UnsafePointer<sockaddr>, socklen_t) -> Int32) throws {
        let (unix, length) = rawAddress(name)
        let result = withUnsafeBytes(of: unix) { body($0.baseAddress!.assumingMemoryBound(to: sockaddr.self), length) }
        try expect(result == 0, String(cString: strerror(errno)))
    }

    /// What a client that is bound to `own`, if to anything, hears from the server at `name` until it closes.
    private func hear(_ name: [UInt8], from own: [UInt8]? = nil) throws -> [UInt8] {
        let socket = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        defer { close(socket) }
        if let own { try call(own) { bind(socket, $0, $1) } }
        try call(name) { connect(socket, $0, $1) }
        var all: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: 65_536)
        while case let count = recv(socket, &piece, piece.count, 0), count > 0 { all += piece.prefix(count) }
        return all
    }

    private func variables(_ bytes: [UInt8]) -> [String: [UInt8]] {
        bytes.split(separator: 0).reduce(into: [:]) { all, variable in
            let parts = variable.split(separator: UInt8(ascii: "="), maxSplits: 1, omittingEmptySubsequences: false)
            all[String(decoding: parts[0], as: UTF8.self)] = parts.count == 2 ? Array(parts[1]) : []
        }
    }

    @Test("a path that is no text is the one that was given: to serve on, to be told of, to ask at, to be removed")
    func bytes() throws {
        let odd = "\(directory.path)/\u{e9}".utf8 + [0xff, 0x20, 0xc3]
        let arguments = "\"$1/é$(printf '\\377 \\303')\" "
        let (server, address) = try forkserve(
            shell: "exec \"$0\" exec --control \(arguments.dropLast(2))c\" unix:\(arguments) -- cat /proc/self/environ",
            [directory.path])
        #expect(address == "unix:\(directory.path)/é\\xff \\xc3")
        let told = variables(try hear(Array(odd)))
        #expect(told["UNIXLOCALPATH"] == Array(odd) && told["REMOTE_ADDR"] == nil)
        let status = try Running(
            "sh", ["-c", "exec \"$0\" status \(arguments.dropLast(2))c\"", forkserveProgram, directory.path])
        #expect(try status.wait() == 0 && status.output.contains("/é\\xff \\xc3"), "\(status.errors)")
        try stop(server)
        #expect(entries(of: directory.path).isEmpty)
    }

    @Test("an error tells of it in characters that can be read")
    func oddError() throws {
        let (status, _, errors) = try outcome(
            ["-c", "exec '\(forkserveProgram)' echo \"$(printf '\\377')\""], program: "sh")
        #expect(status == 64 && errors.contains(#"'\xff' is not an address"#), "\(errors)")
    }

    @Test("REMOTE_ADDR is an absolute path or an abstract name, and never what a client would like it to be")
    func remoteAddress() throws {
        let address = "\(directory.path)/socket"
        let (server, _) = try forkserve(["exec", "unix:" + address, "--", "cat", "/proc/self/environ"])
        func told(_ own: [UInt8]?) throws -> [String: [UInt8]] { variables(try hear(Array(address.utf8), from: own)) }

        #expect(try told(nil)["REMOTE_ADDR"] == nil)
        let absolute = Array("\(directory.path)/client".utf8) + [0xfe]
        #expect(try told(absolute)["REMOTE_ADDR"] == absolute)
        let name = Array("forkserve-peer-\(getpid())".utf8)
        #expect(try told([0] + name)["REMOTE_ADDR"] == [UInt8(ascii: "@")] + name)
        // Cut off at its NUL it would be another's name.
        let cut = try told([0] + name + [0] + Array("x".utf8))
        #expect(cut["REMOTE_ADDR"] == nil && cut["UNIXREMOTEPATH"] == nil && cut["UNIXREMOTEPID"] != nil)
        try stop(server)
    }

    @Test(
        "nor is a relative path taken for an address, or for an abstract name", .needs("socat", package: "socat"),
        arguments: ["127.0.0.1", "@name"])
    func relative(name: String) throws {
        let (server, _) = try forkserve(["exec", "unix:\(directory.path)/socket", "--", "cat", "/proc/self/environ"])
        let told = try run(
            "sh", ["-c", "cd \"$0\" && exec socat -u \"UNIX-CONNECT:socket,bind=$1\" -", directory.path, name])
        #expect(!told.contains("REMOTE_ADDR="), "\(told)")
        #expect(told.contains("UNIXREMOTEPATH=\(name == "@name" ? "./@name" : name)\0"), "\(told)")
        try stop(server)
    }

    @Test("a status, and a log, show no character that makes a line look other than it is; JSON has it all the same")
    func format() throws {
        let (path, control) = ("\(directory.path)/socket", "\(directory.path)/control")
        let (server, _) = try forkserve(["echo", "--verbose", "--control", control, "unix:" + path])
        let odd = "\(directory.path)/x\u{202e}\u{2028}\u{feff}\u{e0041}y"
        let socket = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        try call(Array(odd.utf8)) { bind(socket, $0, $1) }
        try call(Array(path.utf8)) { connect(socket, $0, $1) }
        try eventually("not served") { children(of: server.pid).count == 1 }
        let shown = #"x\u202e\u2028\ufeff\U000e0041y"#
        #expect(try run(forkserveProgram, ["status", control]).contains(shown))
        let json = try run(forkserveProgram, ["status", "--json", control])
        #expect(json.contains(#"x\u202e\u2028\ufeff\udb40\udc41y"#))
        let object = try JSONSerialization.jsonObject(with: Data(json.utf8)) as? [String: Any]
        #expect((object?["processes"] as? [[String: Any]])?.first?["peer"] as? String == "unix:" + odd)
        close(socket)
        try server.waitForError("peer unix:\(directory.path)/\(shown): exited with status 0")
        try stop(server)
    }

    @Test("an unnamed peer is said to be one")
    func unnamed() throws {
        let path = "\(directory.path)/socket"
        let (server, _) = try forkserve(["exec", "unix:" + path, "--", "sh", "-c", "exit 3"])
        #expect(try hear(Array(path.utf8)).isEmpty)
        try server.waitForError("peer unix: (unnamed): exited with status 3")
        try stop(server)
    }
}
