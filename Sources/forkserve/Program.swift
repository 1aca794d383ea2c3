// SPDX-License-Identifier: Apache-2.0
//
// What a client's program is started with. `program`: the command line's process and the server's parent, before it
// serves. `variables`: the parent, for each client, so that it must not wait.

import CForkCore
import Forking
import Glibc
import SystemPackage

/// Finds PROGRAM of the command line, and sets its arguments and environment.
enum ProgramLine {
    /// Finds the program as a shell would.
    ///
    /// - Parameters:
    ///   - count: how many arguments at the end of the command line are the program and its arguments.
    ///   - ownName: the program's argument 0; nil: as on the command line.
    /// - Throws: `ForkingError.Code.invalid` if there is no such program, or it cannot be executed.
    static func program(ofLast count: Int, called ownName: String?) throws(ForkingError) -> Program {
        // Copied byte for byte, because arguments need not be UTF-8.
        let all = Arguments.vector
        var arguments: CStrings = []
        if let ownName { arguments.append(ownName) }
        arguments.append(contentsOf: CStrings(copying: all.baseAddress! + (all.count - count + arguments.count)))
        let name = UnsafePointer(all[all.count - count]!)
        var program = Program(path: try find(name), arguments: arguments)
        program.environment.removeAll { variable in
            names.contains(String(String(cString: variable).prefix { $0 != "=" }))
        }
        return program
    }

    private static func find(_ name: UnsafePointer<CChar>) throws(ForkingError) -> FilePath {
        let text = SocketAddress.printable(String(cString: name))
        if text.contains("/") {
            try checkExecutable(name, called: text)
            return FilePath(platformString: name)
        }
        let found = SearchPath.find(name) { (try? checkExecutable($0, called: text)) != nil }
        guard let found else { throw .invalid("there is no executable program '\(text)' in PATH") }
        return FilePath(platformString: found)
    }

    private static func checkExecutable(_ path: UnsafePointer<CChar>, called name: String) throws(ForkingError) {
        var found = stat()
        let missing = failure(of: stat(path, &found))
        guard missing == 0 else { throw .invalid("there is no program '\(name)': \(Errno(rawValue: missing))") }
        guard found.st_mode & S_IFMT == S_IFREG else {
            throw .invalid("'\(name)' is not a program: it is not a regular file")
        }
        let refused = failure(of: access(path, X_OK))
        guard refused == 0 else { throw .invalid("'\(name)' cannot be executed: \(Errno(rawValue: refused))") }
    }

    /// All variables that `variables(for:)` may set, and those for other programs, which must not be inherited.
    private static let names: Set<String> = [
        "PROTO", "TCPLOCALIP", "TCPLOCALPORT", "TCPLOCALHOST", "TCPREMOTEIP", "TCPREMOTEPORT", "TCPREMOTEHOST",
        "TCPREMOTEINFO", "UNIXLOCALPATH", "UNIXREMOTEPATH", "UNIXREMOTEPID", "UNIXREMOTEEUID", "UNIXREMOTEEGID",
        "REMOTE_ADDR", "REMOTE_PORT", "REMOTE_HOST", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES",
    ]

    /// The variables that programs for tcpserver(1), ucspi-unix, and systemd's Accept=yes (systemd.exec(5)) read.
    static func variables(for connection: borrowing Connection) throws(ForkingError) -> CStrings {
        let local = try connection.local
        let peer = connection.peer
        if let ip = peer.ip, let port = peer.port {
            return [
                "PROTO=TCP", "TCPLOCALIP=\(local.ip ?? "")", "TCPLOCALPORT=\(local.port ?? 0)",
                "TCPREMOTEIP=\(ip)", "TCPREMOTEPORT=\(port)", "REMOTE_ADDR=\(ip)", "REMOTE_PORT=\(port)",
            ]
        }
        var variables: CStrings = ["PROTO=UNIX"]
        variables.append("UNIXLOCALPATH", local.pathBytes ?? [])
        if let path = peer.pathBytes {
            variables.append("UNIXREMOTEPATH", path)
            // A peer names its socket as it likes; a relative path could look like an IP address.
            if peer.isAbstract || path.first == UInt8(ascii: "/") { variables.append("REMOTE_ADDR", path) }
        }
        var pid: pid_t = 0
        var user: uid_t = 0
        var group: gid_t = 0
        if forkcore_peer_credentials(connection.descriptor.rawValue, &pid, &user, &group) == 0 {
            variables.append("UNIXREMOTEPID=\(pid)")
            variables.append("UNIXREMOTEEUID=\(user)")
            variables.append("UNIXREMOTEEGID=\(group)")
        }
        return variables
    }
}

extension CStrings {
    /// Appends `NAME=value`, byte for byte. Leaves out a value with a NUL byte, which abstract names can have, because
    /// it would be cut there.
    fileprivate mutating func append(_ name: String, _ value: [UInt8]) {
        guard !value.contains(0) else { return }
        (Array("\(name)=".utf8) + value + [0]).withUnsafeBytes {
            append($0.baseAddress!.assumingMemoryBound(to: CChar.self))
        }
    }
}
