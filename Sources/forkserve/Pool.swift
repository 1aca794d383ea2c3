// SPDX-License-Identifier: Apache-2.0
//
// The pool's parent, before and while it serves. Handlers run in workers.

import Forking
import Glibc
import SystemPackage

extension Job {
    /// Serves with a pool of workers.
    func servePool() throws(ForkingError) {
        let limits = HTTPService.Limits(
            head: .seconds(pool.headTimeout), request: pool.timeout.map(Duration.seconds))
        let handler: (inout Connection, Worker) throws -> Void =
            if service == .httpPool {
                { try HTTPService.serve(&$0, $1, limits) }
            } else {
                { connection, _ in try EchoService.serve(&connection) }
            }
        let configuration = try poolConfiguration()
        var made: PreforkServer?
        try forEachListener { (listener) throws(ForkingError) in
            if let made {
                try made.add(listener)
            } else {
                made = try PreforkServer(listener, configuration: configuration, handler: handler)
            }
        }
        let server = made!
        let verbose = common.verbose
        server.hooks.onEvent = { _, event in
            if case .serving(let addresses) = event { addresses.forEach(announce) }
            if verbose || event.isTrouble { tell("forkserve: \(event)") }
        }
        server.hooks.onError =
            verbose ? { tellOfError($0, $1, in: "worker") } : { tellOfTrouble($0, $1, in: "worker") }
        server.hooks.signals[.userDefinedOne] = { server in printTable(server.status) }
        try server.serve()
    }

    private func poolConfiguration() throws(ForkingError) -> PreforkServer.Configuration {
        var configuration = PreforkServer.Configuration()
        if let workers = pool.workers { configuration.workers = workers }
        configuration.maxWorkers = pool.maxWorkers
        configuration.requestTimeout = pool.timeout.map(Duration.seconds)
        configuration.maxRequests = pool.maxRequests
        configuration.maxAge = pool.maxAge.map(Duration.seconds)
        configuration.maxMemoryKiB = pool.maxMemory.map { $0 * 1024 }
        configuration.maxReplacedAtOnce = pool.maxReplacedAtOnce
        configuration.startTimeout = .seconds(pool.startTimeout)
        configuration.maxFailures = pool.maxFailures
        configuration.replacementDrainTimeout = pool.replacementDrainTimeout.map(Duration.seconds)
        configuration.drainTimeout = .seconds(common.drainTimeout)
        configuration.child.killTimeout = .seconds(common.killTimeout)
        configuration.child.printsCrashBacktrace = common.backtraces
        configuration.printsStuckBacktrace = common.backtraces
        configuration.ioTimeout = ioTimeout.map(Duration.seconds)
        configuration.noDelay = common.sockets.noDelay
        if service == .httpPool {
            configuration.requestUnit = .declared
            if ioTimeout == nil { configuration.ioTimeout = .seconds(10) }
        }
        configuration.reapsStrangers = true
        configuration.control = try common.control.map(ControlPath.address)
        configuration.child.credentials = common.identity.credentials
        configuration.child.oomScore = common.identity.oomScore
        return configuration
    }
}
