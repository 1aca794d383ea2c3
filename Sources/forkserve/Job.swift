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
        setenv(Self.variable, encoded, 1)
        execv("/proc/self/exe", CommandLine.unsafeArgv)
        unsetenv(Self.variable)
        try serve()
    }

    /// The job that the image before this one left, if any.
    static func left() -> Job? {
        guard let value = getenv(variable) else { return nil }
        defer { unsetenv(variable) }
        return Job(encoded: String(cString: value))
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
