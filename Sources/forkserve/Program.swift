// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Forking
import Glibc
import SystemPackage

/// A program that is executed for each connection.
struct Program {
    private let path: String
    /// Its name and arguments, byte for byte as they were given to us: not all that is an argument is UTF-8.
    private let arguments: [UnsafeMutablePointer<CChar>?]
    /// The environment it inherits, byte for byte, without what is set for each connection.
    private let environment: [UnsafeMutablePointer<CChar>]

    /// Finds the program as a shell would. Parent, before the first client.
    ///
    /// - Throws: `ForkingError.invalid` if there is no such program, or it cannot be executed.
    ///
    /// - Parameter command: the program and its arguments, with which the command line ends.
    init(_ command: [String]) throws(ForkingError) {
        let given = Array(UnsafeBufferPointer(start: CommandLine.unsafeArgv, count: Int(CommandLine.argc)))
        arguments = given.suffix(command.count) + [nil]
        path = try Self.find(command[0])
        environment = Self.inherited().filter { variable in
            !Self.names.contains(String(String(cString: variable).prefix { $0 != "=" }))
        }
    }

    private static func find(_ name: String) throws(ForkingError) -> String {
        if name.contains("/") {
            try checkExecutable(name, called: name)
            return name
        }
        let directories = getenv("PATH").map { String(cString: $0) } ?? "/usr/bin:/bin"
        for directory in directories.split(separator: ":", omittingEmptySubsequences: false) {
            let path = directory.isEmpty ? "./" + name : "\(directory)/\(name)"
            if (try? checkExecutable(path, called: name)) != nil { return path }
        }
        throw .invalid("there is no program '\(name)' in PATH")
    }

    private static func checkExecutable(_ path: String, called name: String) throws(ForkingError) {
        var found = stat()
        guard stat(path, &found) == 0 else {
            throw .invalid("there is no program '\(name)': \(Errno(rawValue: errno))")
        }
        guard found.st_mode & S_IFMT == S_IFREG else {
            throw .invalid("'\(name)' is not a program: it is no regular file")
        }
        guard access(path, X_OK) == 0 else { throw .invalid("'\(name)' cannot be executed: \(Errno(rawValue: errno))") }
    }

    // MARK: In the child

    /// Becomes the program, on descriptors 0 and 1. Returns only by throwing.
    func execute(on connection: borrowing Connection) throws(ForkingError) {
        // This child becomes the program, or ends: none of these strings is ever freed.
        let variables = environment + (try Self.variables(for: connection)).map { strdup($0) } + [nil]
        let code = forkcore_exec(connection.descriptor.rawValue, path, arguments, variables)
        throw .system(call: "execve \(path)", Errno(rawValue: code))
    }

    /// Everything that `variables(for:)` may set.
    private static let names: Set<String> = [
        "PROTO", "TCPLOCALIP", "TCPLOCALPORT", "TCPLOCALHOST", "TCPREMOTEIP", "TCPREMOTEPORT", "TCPREMOTEHOST",
        "TCPREMOTEINFO", "UNIXLOCALPATH", "UNIXREMOTEPATH", "UNIXREMOTEPID", "UNIXREMOTEEUID", "UNIXREMOTEEGID",
        "REMOTE_ADDR", "REMOTE_PORT", "REMOTE_HOST", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES",
    ]

    /// What programs written for tcpserver(1), for ucspi-unix, and for systemd's Accept=yes (systemd.exec(5)) read.
    private static func variables(for connection: borrowing Connection) throws(ForkingError) -> [String] {
        let local = try connection.local
        let peer = connection.peer
        if let ip = peer.ip, let port = peer.port {
            return [
                "PROTO=TCP", "TCPLOCALIP=\(local.ip ?? "")", "TCPLOCALPORT=\(local.port ?? 0)",
                "TCPREMOTEIP=\(ip)", "TCPREMOTEPORT=\(port)", "REMOTE_ADDR=\(ip)", "REMOTE_PORT=\(port)",
            ]
        }
        var variables = ["PROTO=UNIX", "UNIXLOCALPATH=\(local.path ?? "")"]
        if let path = peer.path { variables += ["UNIXREMOTEPATH=\(path)", "REMOTE_ADDR=\(path)"] }
        var pid: pid_t = 0
        var user: uid_t = 0
        var group: gid_t = 0
        if forkcore_peer_credentials(connection.descriptor.rawValue, &pid, &user, &group) == 0 {
            variables += ["UNIXREMOTEPID=\(pid)", "UNIXREMOTEEUID=\(user)", "UNIXREMOTEEGID=\(group)"]
        }
        return variables
    }

    private static func inherited() -> [UnsafeMutablePointer<CChar>] {
        var variables: [UnsafeMutablePointer<CChar>] = []
        var next = environ
        while let variable = next.pointee {
            variables.append(variable)
            next += 1
        }
        return variables
    }
}
