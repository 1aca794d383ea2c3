// SPDX-License-Identifier: Apache-2.0
//
// Parent. It starts no thread.

public import CoreMetrics
public import Forking

/// Records the events of a `ForkingServer` as metrics. Parent: create one before serving, and set `server.hooks.onEvent
/// = { metrics.record($1) }`. docs/METRICS.md lists the names and labels.
public final class ServerMetrics: Sendable {
    private let children: LiveGauge
    private let forks: Counter
    private let exits: Family<Counter>
    private let duration: Timer
    private let refusals: Family<Counter>
    private let shortages: Counter

    /// Creates the metrics.
    ///
    /// - Parameter factory: the default is the one that the program has bootstrapped.
    public init(factory: any MetricsFactory = MetricsSystem.factory) {
        let make = MetricMaker(prefix: "forking_server_", factory: factory)
        children = make.gauge("children")
        forks = make.counter("forks_total")
        exits = Family("cause") { make.counter("exits_total", $0) }
        duration = make.timer("child_duration")
        refusals = Family("reason") { make.counter("refusals_total", $0) }
        shortages = make.counter("shortages_total")
    }

    /// Counts an event.
    public func record(_ event: ForkingServer.Event) {
        switch event {
        case .forked:
            forks.increment()
            children.change(by: 1)
        case .ended(let exit):
            // A process without a peer is not one of the server's children.
            guard exit.peer != nil else { return }
            children.change(by: -1)
            exits[exit.cause].increment()
            duration.record(exit.duration)
        case .refused(_, let reason): refusals[reason.name].increment()
        case .rejected: refusals["hook"].increment()
        case .verifyFailed: refusals["hook_failed"].increment()
        case .forkFailed: refusals["fork_failed"].increment()
        case .shortage: shortages.increment()
        case .serving, .refusals, .rulesRead, .rulesFailed, .beforeForkFailed, .upgrading, .upgraded, .upgradeFailed,
            .listeningAgain, .stopping, .abandoned,
            .trouble:
            break
        }
    }
}

/// Records the events of a `PreforkServer` as metrics. Parent: create one before serving, and set `server.hooks.onEvent
/// = { metrics.record($1) }`. docs/METRICS.md lists the names and labels.
public final class PreforkMetrics: Sendable {
    private let workers: LiveGauge
    private let forks: Counter
    private let forkFailures: Counter
    private let exits: Family<Counter>
    private let duration: Timer
    private let drains: Family<Counter>
    private let stuck: Counter
    private let overdue: Counter
    private let notReady: Counter

    /// Creates the metrics.
    ///
    /// - Parameter factory: the default is the one that the program has bootstrapped.
    public init(factory: any MetricsFactory = MetricsSystem.factory) {
        let make = MetricMaker(prefix: "forking_pool_", factory: factory)
        workers = make.gauge("workers")
        forks = make.counter("forks_total")
        forkFailures = make.counter("fork_failures_total")
        exits = Family("cause", "end") { make.counter("exits_total", $0) }
        duration = make.timer("worker_duration")
        drains = Family("reason") { make.counter("drains_total", $0) }
        stuck = make.counter("stuck_total")
        overdue = make.counter("overdue_total")
        notReady = make.counter("not_ready_total")
    }

    /// Counts an event.
    public func record(_ event: PreforkServer.Event) {
        switch event {
        case .forked:
            forks.increment()
            workers.change(by: 1)
        case .ended(let exit, let end):
            workers.change(by: -1)
            exits[exit.cause, end.cause].increment()
            duration.record(exit.duration)
        case .draining(_, let reason): drains[reason.cause].increment()
        case .forkFailed: forkFailures.increment()
        case .stuck: stuck.increment()
        case .overdue: overdue.increment()
        case .notReady: notReady.increment()
        case .serving, .ready, .listeningAgain, .crashLoop, .resized, .replacing, .replaced, .replacingFailed,
            .upgrading, .upgraded, .upgradeFailed, .stopping, .abandoned, .trouble:
            break
        }
    }
}
