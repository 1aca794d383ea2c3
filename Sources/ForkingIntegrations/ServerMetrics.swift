// SPDX-License-Identifier: Apache-2.0

import CoreMetrics
import Forking

/// What happens in a `ForkingServer`, as metrics. Parent: make one before serving, and
/// `server.hooks.observe = { metrics.record($0) }`.
///
/// | name | kind | labels | |
/// | --- | --- | --- | --- |
/// | `forking_server_children` | gauge | | children that serve a client now |
/// | `forking_server_forks_total` | counter | | clients that got a child |
/// | `forking_server_exits_total` | counter | `cause` | children reaped |
/// | `forking_server_child_duration` | timer | | from fork to reaping |
/// | `forking_server_refusals_total` | counter | `reason` | clients sent away: `hook`, `hook_failed`, `fork_failed` |
/// | `forking_server_shortages_total` | counter | | times that clients began to wait for a descriptor, or for memory |
///
/// `cause` is `success`, `failure` (an exit status that is not 0), a signal's name, `time_limit`, `stopped`, `refused` (a program
/// that could not be executed) or `unknown`.
public final class ServerMetrics: Sendable {
    private let children: LiveGauge
    private let forks: Counter
    private let exits: Family<Counter>
    private let duration: Timer
    private let refusals: Family<Counter>
    private let shortages: Counter

    /// Makes the metrics.
    ///
    /// - Parameter factory: by default the one that the program has set up.
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
    public func record(_ event: ServerEvent) {
        switch event {
        case .forked:
            forks.increment()
            children.change(by: 1)
        case .ended(let exit):
            // Without a peer it was a spare that never had one, or none of the server's own.
            guard exit.peer != nil else { return }
            children.change(by: -1)
            exits[exit.cause].increment()
            duration.record(exit.duration)
        case .refused: refusals["hook"].increment()
        case .verifyFailed: refusals["hook_failed"].increment()
        case .forkFailed: refusals["fork_failed"].increment()
        case .shortage: shortages.increment()
        case .serving, .stopping, .abandoned: break
        }
    }
}

/// What happens in a `PreforkServer`, as metrics. Parent: make one before serving, and
/// `server.hooks.observe = { metrics.record($0) }`.
///
/// | name | kind | labels | |
/// | --- | --- | --- | --- |
/// | `forking_pool_workers` | gauge | | workers alive now |
/// | `forking_pool_forks_total` | counter | | workers forked |
/// | `forking_pool_fork_failures_total` | counter | | times that none could be forked |
/// | `forking_pool_exits_total` | counter | `cause`, `end` | workers reaped; `end` is `expected`, `failed_start` or `crashed` |
/// | `forking_pool_worker_duration` | timer | | from fork to reaping |
/// | `forking_pool_drains_total` | counter | `reason` | workers that were to drain, as of `DrainReason`: `retired`, `age` … |
/// | `forking_pool_stuck_total` | counter | | workers that were ended as they were stuck |
/// | `forking_pool_not_ready_total` | counter | | workers that were killed as they were not ready in time |
///
/// `cause` is as for `ServerMetrics`.
public final class PreforkMetrics: Sendable {
    private let workers: LiveGauge
    private let forks: Counter
    private let forkFailures: Counter
    private let exits: Family<Counter>
    private let duration: Timer
    private let drains: Family<Counter>
    private let stuck: Counter
    private let notReady: Counter

    /// Makes the metrics.
    ///
    /// - Parameter factory: by default the one that the program has set up.
    public init(factory: any MetricsFactory = MetricsSystem.factory) {
        let make = MetricMaker(prefix: "forking_pool_", factory: factory)
        workers = make.gauge("workers")
        forks = make.counter("forks_total")
        forkFailures = make.counter("fork_failures_total")
        exits = Family("cause", "end") { make.counter("exits_total", $0) }
        duration = make.timer("worker_duration")
        drains = Family("reason") { make.counter("drains_total", $0) }
        stuck = make.counter("stuck_total")
        notReady = make.counter("not_ready_total")
    }

    /// Counts an event.
    public func record(_ event: PreforkEvent) {
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
        case .notReady: notReady.increment()
        case .serving, .ready, .crashLoop, .resized, .replacing, .replaced, .replacingFailed, .upgrading, .upgraded,
            .upgradeFailed, .stopping, .abandoned:
            break
        }
    }
}
