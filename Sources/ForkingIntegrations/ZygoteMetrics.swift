// SPDX-License-Identifier: Apache-2.0
//
// Host, on any thread.

public import CoreMetrics
public import Forking

/// Records the events of a zygote as metrics. Host: create one before the zygote is started, and set `hooks.onEvent = {
/// metrics.record($0) }`. docs/METRICS.md lists the names and labels.
public final class ZygoteMetrics: Sendable {
    private let children: LiveGauge
    private let calls: Family<Counter>
    private let callDuration: Family<Timer>
    private let waitDuration: Timer
    private let refusals: Family<Counter>
    private let forks: Counter
    private let forkDuration: Timer
    private let reaps: Counter
    private let reapDuration: Timer
    private let starts: Counter
    private let startFailures: Counter
    private let losses: Family<Counter>
    private let isolates: LiveGauge
    private let isolateStarts: Family<Counter>
    private let isolateEnds: Family<Counter>
    private let isolateDuration: Family<Timer>

    /// Creates the metrics.
    ///
    /// - Parameter factory: the default is the one that the program has bootstrapped.
    public init(factory: any MetricsFactory = MetricsSystem.factory) {
        let make = MetricMaker(prefix: "forking_zygote_", factory: factory)
        children = make.gauge("children")
        calls = Family("handler", "outcome") { make.counter("calls_total", $0) }
        callDuration = Family("handler") { make.timer("call_duration", $0) }
        waitDuration = make.timer("wait_duration")
        refusals = Family("handler") { make.counter("refusals_total", $0) }
        forks = make.counter("forks_total")
        forkDuration = make.timer("fork_duration")
        reaps = make.counter("reaps_total")
        reapDuration = make.timer("reap_duration")
        starts = make.counter("starts_total")
        startFailures = make.counter("start_failures_total")
        losses = Family("cause") { make.counter("losses_total", $0) }
        isolates = make.gauge("isolates")
        isolateStarts = Family("handler") { make.counter("isolate_starts_total", $0) }
        isolateEnds = Family("handler", "reason") { make.counter("isolate_ends_total", $0) }
        isolateDuration = Family("handler") { make.timer("isolate_duration", $0) }
    }

    /// Counts an event. Any thread.
    public func record(_ event: Zygote.Event) {
        switch event {
        case .began: children.change(by: 1)
        case .finished(let report): record(report)
        case .rejected(let handler): refusals[handler].increment()
        case .started: starts.increment()
        case .startFailed: startFailures.increment()
        case .lost(_, let status, _, _): losses[status.cause].increment()
        case .isolateStarted(let handler, _):
            isolates.change(by: 1)
            isolateStarts[handler].increment()
        case .isolateEnded(let report): record(report)
        case .ended, .contextCut: break
        }
    }

    private func record(_ report: Zygote.IsolateReport) {
        isolateEnds[report.handler, report.reason.cause].increment()
        guard report.hasServed else { return }
        isolates.change(by: -1)
        isolateDuration[report.handler].record(report.duration)
    }

    private func record(_ report: Zygote.CallReport) {
        calls[report.handler, report.failure?.cause ?? "answered"].increment()
        callDuration[report.handler].record(report.duration)
        if let waited = report.waited {
            if report.isolate == nil { children.change(by: -1) }
            waitDuration.record(waited)
        }
        if let time = report.forkTime { forkDuration.record(time) }
        let work = report.work
        if work.forks > 0 { forks.increment(by: work.forks) }
        if work.reaped > 0 {
            reaps.increment(by: work.reaped)
            reapDuration.record(work.reapTime / work.reaped)
        }
    }
}
