// SPDX-License-Identifier: Apache-2.0

import ArgumentParser
import Forking

/// The options of a pool of workers.
struct PoolOptions: ParsableArguments {
    /// As plain values, for a job.
    struct Values: Equatable {
        /// Nil: as many as there are cores.
        var workers: Int?
        var maxWorkers: Int?
        var timeout: Double?
        var headTimeout = 10.0
        var replacementDrainTimeout: Double?
        var maxRequests: Int?
        var maxAge: Double?
        var maxMemory: Int?
        var maxReplacedAtOnce = 1
        var startTimeout = 30.0
        var maxFailures: Int?

        mutating func code(_ coder: inout FieldCoder) {
            coder.field(&workers)
            coder.field(&maxWorkers)
            coder.field(&timeout)
            coder.field(&headTimeout)
            coder.field(&replacementDrainTimeout)
            coder.field(&maxRequests)
            coder.field(&maxAge)
            coder.field(&maxMemory)
            coder.field(&maxReplacedAtOnce)
            coder.field(&startTimeout)
            coder.field(&maxFailures)
        }
    }

    @Option(help: ArgumentHelp("How many workers; by default one per core that may be used.", valueName: "n"))
    var workers: Int?
    @Option(
        help: ArgumentHelp(
            "Grow up to so many while all are busy, and shrink back slowly. SIGTTIN and SIGTTOU move this too.",
            valueName: "n"))
    var maxWorkers: Int?
    @Option(
        help: ArgumentHelp(
            """
            How long a request may take (without --http: a connection); then its worker is ended and replaced. By \
            default as long as it likes.
            """,
            valueName: "seconds"))
    var timeout: Double?
    @Option(
        help: ArgumentHelp(
            """
            With --http: how long a request's head may take to come, from its first byte; then the connection is closed. \
            No longer than --timeout, which counts from there too.
            """,
            valueName: "seconds"))
    var headTimeout = Values().headTimeout
    @Option(
        help: ArgumentHelp(
            """
            How long a worker that is replaced may go on with what it has begun; then it is ended. By default a request \
            has its --timeout, and what has none --drain-timeout.
            """,
            valueName: "seconds"))
    var replacementDrainTimeout: Double?
    @Option(help: ArgumentHelp("Replace a worker after about so many requests.", valueName: "n"))
    var maxRequests: Int?
    @Option(help: ArgumentHelp("Replace a worker after about this time.", valueName: "seconds"))
    var maxAge: Double?
    @Option(help: ArgumentHelp("Replace a worker that has more memory (its share of it, PSS).", valueName: "MiB"))
    var maxMemory: Int?
    @Option(help: ArgumentHelp("How many are replaced at the same time.", valueName: "n"))
    var maxReplacedAtOnce = Values().maxReplacedAtOnce
    @Option(help: ArgumentHelp("How long a new worker, or a new program, may take to be ready.", valueName: "seconds"))
    var startTimeout = Values().startTimeout
    @Option(
        help: ArgumentHelp("Give up after so many workers in a row that failed at their start.", valueName: "n"))
    var maxFailures: Int?

    var values: Values {
        Values(
            workers: workers, maxWorkers: maxWorkers, timeout: timeout, headTimeout: headTimeout,
            replacementDrainTimeout: replacementDrainTimeout, maxRequests: maxRequests, maxAge: maxAge,
            maxMemory: maxMemory,
            maxReplacedAtOnce: maxReplacedAtOnce, startTimeout: startTimeout, maxFailures: maxFailures)
    }

    func check() throws {
        try Bound.count("--workers", workers, upTo: 1024)
        try Bound.count(
            "--max-workers", maxWorkers, from: workers ?? UsableCores.count, upTo: 1024,
            ": at least --workers" + (workers == nil ? ", which is one per core unless it is given" : ""))
        try Bound.limit("--timeout", timeout)
        try Bound.limit("--head-timeout", headTimeout)
        if let replacementDrainTimeout { try Bound.seconds("--replacement-drain-timeout", replacementDrainTimeout) }
        try Bound.count("--max-requests", maxRequests, upTo: .max)
        try Bound.limit("--max-age", maxAge)
        try Bound.count("--max-memory", maxMemory, upTo: 1 << 30)
        try Bound.count("--max-replaced-at-once", maxReplacedAtOnce, upTo: 1024)
        try Bound.limit("--start-timeout", startTimeout)
        try Bound.count("--max-failures", maxFailures, upTo: .max)
    }
}

struct Prefork: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Serves with a pool of worker processes, which are replaced when they crash.",
        discussion: """
            SIGTERM and SIGINT drain; SIGHUP replaces all workers, one by one; SIGTTIN and SIGTTOU add and take one; \
            SIGUSR2 starts the program anew on the same sockets, and drains once that one serves.
            """)

    @OptionGroup var common: CommonOptions
    @OptionGroup var pool: PoolOptions
    @OptionGroup var patience: PatienceOptions
    @Flag(help: "Answer HTTP requests, each with the same six bytes, instead of echoing lines.") var http = false
    @Argument(help: ArgumentHelp("Where to listen, be it at several.", valueName: "address"))
    var addresses = ["127.0.0.1:7777"]

    func validate() throws {
        try common.validate(addresses)
        try pool.check()
        try patience.check()
    }

    func run() throws {
        try Job(
            service: http ? .httpPool : .pool, addresses: addresses, ioTimeout: patience.ioTimeout,
            common: common.values, pool: pool.values
        ).run()
    }
}
