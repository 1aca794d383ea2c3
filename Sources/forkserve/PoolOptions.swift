// SPDX-License-Identifier: Apache-2.0
//
// The command line's process, before it serves: parses options. It starts no thread.

import ArgumentParser
import Forking

/// The options of a pool of workers.
struct PoolOptions: ParsableArguments {
    /// The parsed values, for a `Job`.
    struct Values: Equatable {
        /// Nil: one per usable core.
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

    @Option(help: ArgumentHelp("The number of workers; by default one per usable core.", valueName: "n"))
    var workers: Int?
    @Option(
        help: ArgumentHelp(
            """
            Add workers up to this number while all are busy, and remove them slowly later. SIGTTIN and SIGTTOU \
            change this number, too.
            """,
            valueName: "n"))
    var maxWorkers: Int?
    @Option(
        help: ArgumentHelp(
            """
            How long a request may take, or without --http a connection. Then its worker gets SIGABRT, and SIGKILL after \
            --kill-timeout, and is replaced. By default there is no limit.
            """,
            valueName: "seconds"))
    var timeout: Double?
    @Option(
        help: ArgumentHelp(
            """
            With --http: how long a request's head may take to arrive, from its first byte on. Then the connection is \
            closed. --timeout also starts with that byte, and bounds the head if it is shorter.
            """,
            valueName: "seconds"))
    var headTimeout = Values().headTimeout
    @Option(
        help: ArgumentHelp(
            """
            How long a worker that is being replaced may finish the requests that it has begun. Then it is ended. By \
            default --timeout, or --drain-timeout if that is not set.
            """,
            valueName: "seconds"))
    var replacementDrainTimeout: Double?
    @Option(help: ArgumentHelp("Replace a worker after about this number of requests.", valueName: "n"))
    var maxRequests: Int?
    @Option(help: ArgumentHelp("Replace a worker after about this time.", valueName: "seconds"))
    var maxAge: Double?
    @Option(
        help: ArgumentHelp(
            "Replace a worker that uses more memory (PSS, which counts its share of shared pages).", valueName: "MiB"))
    var maxMemory: Int?
    @Option(help: ArgumentHelp("How many workers are replaced at the same time.", valueName: "n"))
    var maxReplacedAtOnce = Values().maxReplacedAtOnce
    @Option(
        help: ArgumentHelp(
            "How long a new worker, or the new program of an upgrade, may take to be ready.", valueName: "seconds"))
    var startTimeout = Values().startTimeout
    @Option(
        help: ArgumentHelp(
            "End the server after this number of workers in a row have failed at their start.", valueName: "n"))
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
            SIGTERM and SIGINT drain. SIGHUP replaces all workers, one by one. SIGTTIN adds a worker, and SIGTTOU \
            removes one. SIGUSR2 upgrades: it starts the program again on the same sockets, and drains once the new \
            one serves.
            """)

    @OptionGroup var common: CommonOptions
    @OptionGroup var pool: PoolOptions
    @OptionGroup var patience: PatienceOptions
    @Flag(help: "Answer each HTTP request with the same six bytes, instead of sending lines back.") var http = false
    @Argument(help: ArgumentHelp("One or more addresses to listen on, as in 'forkserve --help'.", valueName: "address"))
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
