// SPDX-License-Identifier: Apache-2.0

import Forking
import Glibc
import SystemPackage

/// What the command line asked for, as plain values.
///
/// Reading a command line leaves hundreds of pages mapped and a heap full of holes, which each fork would copy for ever. So
/// forkserve executes itself once more, with its job in a variable of the environment, and serves from an image in which
/// nothing ran but what serving needs: a third more connections a second.
struct Job: Equatable {
    enum Service: String { case echo, echoDatagrams, echoOnce, program }

    var service: Service
    var address: String
    /// How many of the process's last arguments are the program and its own.
    var programArguments = 0
    var maxChildren: Int
    var spares: Int
    var backlog: Int
    var timeout: Double?
    var drain: Double
    var killAfter: Double
    var verbose: Bool
    var backtraces: Bool

    // MARK: From one image to the next

    private static let variable = "FORKSERVE_JOB"

    /// Begins anew with this job, and does not return; where that cannot be (no /proc), the job is done in this image.
    func start() throws(ForkingError) {
        setenv(Self.variable, "\(getpid()) \(encoded)", 1)
        execv("/proc/self/exe", CommandLine.unsafeArgv)
        unsetenv(Self.variable)
        try serve()
    }

    /// The job that the image before this one left, if any: it was this process, and says so. What anybody else put into
    /// the variable was never validated, and is thrown away.
    static func left() -> Job? {
        guard let value = getenv(variable) else { return nil }
        defer { unsetenv(variable) }
        let parts = String(cString: value).split(separator: " ", maxSplits: 1)
        guard parts.count == 2, pid_t(parts[0]) == getpid() else { return nil }
        return Job(encoded: String(parts[1]))
    }

    /// The kernel names a process after what was executed, "exe" here: neither pgrep(1) nor ps(1) would find it.
    static func takeOwnName() {
        guard let path = CommandLine.unsafeArgv[0] else { return }
        let name = strrchr(path, Int32(UInt8(ascii: "/"))).map { $0 + 1 } ?? path
        guard name.pointee != 0, let file = try? FileDescriptor.open("/proc/self/comm", .writeOnly) else { return }
        // The kernel cuts off what is more than 15 bytes.
        try? file.closeAfter { _ = try file.write(UnsafeRawBufferPointer(start: name, count: strlen(name))) }
    }

    var encoded: String {
        // The address may have any character in it, so it is last.
        "\(service.rawValue) \(programArguments) \(maxChildren) \(spares) \(backlog) \(timeout ?? 0) \(drain) \(killAfter) "
            + "\(verbose) \(backtraces) \(address)"
    }

    init?(encoded: String) {
        let parts = encoded.split(separator: " ", maxSplits: 10, omittingEmptySubsequences: false).map(String.init)
        guard parts.count == 11, let service = Service(rawValue: parts[0]), let programArguments = Int(parts[1]),
            let maxChildren = Int(parts[2]), let spares = Int(parts[3]), let backlog = Int(parts[4]),
            let timeout = Double(parts[5]), let drain = Double(parts[6]), let killAfter = Double(parts[7]),
            let verbose = Bool(parts[8]), let backtraces = Bool(parts[9])
        else { return nil }
        self.init(
            service: service, address: parts[10], programArguments: programArguments, maxChildren: maxChildren,
            spares: spares, backlog: backlog, timeout: timeout == 0 ? nil : timeout, drain: drain,
            killAfter: killAfter, verbose: verbose, backtraces: backtraces)
    }

    init(
        service: Service, address: String, programArguments: Int = 0, maxChildren: Int, spares: Int, backlog: Int,
        timeout: Double?, drain: Double, killAfter: Double, verbose: Bool, backtraces: Bool
    ) {
        self.service = service
        self.address = address
        self.programArguments = programArguments
        self.maxChildren = maxChildren
        self.spares = spares
        self.backlog = backlog
        self.timeout = timeout
        self.drain = drain
        self.killAfter = killAfter
        self.verbose = verbose
        self.backtraces = backtraces
    }
}
