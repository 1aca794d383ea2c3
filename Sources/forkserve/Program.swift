// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Forking
import Glibc
import SystemPackage

/// Where PROGRAM on the command line is found, and what it gets.
enum ProgramLine {
    /// Finds the program as a shell would.
    ///
    /// - Parameters:
    ///   - count: with how many arguments the command line ends that are the program and its own.
    ///   - ownName: what it sees as its own name, if not what it was called by.
    /// - Throws: `ForkingError.Code.invalid` if there is no such program, or it cannot be executed.
    static func program(ofLast count: Int, called ownName: String?) throws(ForkingError) -> Program {
        // Byte for byte as they were given to us: not all that is an argument is UTF-8.
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
        guard let found else { throw .invalid("there is no program '\(text)' in PATH") }
        return FilePath(platformString: found)
    }

    private static func checkExecutable(_ path: UnsafePointer<CChar>, called name: String) throws(ForkingError) {
        var found = stat()
        let missing = failure(of: stat(path, &found))
        guard missing == 0 else { throw .invalid("there is no program '\(name)': \(Errno(rawValue: missing))") }
        guard found.st_mode & S_IFMT == S_IFREG else {
            throw .invalid("'\(name)' is not a program: it is no regular file")
        }
        let refused = failure(of: access(path, X_OK))
        guard refused == 0 else { throw .invalid("'\(name)' cannot be executed: \(Errno(rawValue: refused))") }
    }

    /// Everything that `variables(for:)` may set.
    private static let names: Set<String> = [
        "PROTO", "TCPLOCALIP", "TCPLOCALPORT", "TCPLOCALHOST", "TCPREMOTEIP", "TCPREMOTEPORT", "TCPREMOTEHOST",
        "TCPREMOTEINFO", "UNIXLOCALPATH", "UNIXREMOTEPATH", "UNIXREMOTEPID", "UNIXREMOTEEUID", "UNIXREMOTEEGID",
        "REMOTE_ADDR", "REMOTE_PORT", "REMOTE_HOST", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES",
    ]

    /// What programs written for tcpserver(1), for ucspi-unix, and for systemd's Accept=yes (systemd.exec(5)) read.
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
            // A peer names its socket as it likes; a relative path could be taken for somebody's address.
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
    /// `NAME=value`, byte for byte. One with a NUL byte in it, as abstract names can have, is left out: it would be
    /// another.
    fileprivate mutating func append(_ name: String, _ value: [UInt8]) {
        guard !value.contains(0) else { return }
        (Array("\(name)=".utf8) + value + [0]).withUnsafeBytes {
            append($0.baseAddress!.assumingMemoryBound(to: CChar.self))
        }
    }
}
