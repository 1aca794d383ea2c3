// SPDX-License-Identifier: Apache-2.0
//
// Any process: events as metrics of swift-metrics. Each metric is created once; one with labels when a combination of
// values first occurs. Labels are never process IDs or peers. This code starts no thread; what the metrics system does
// is up to it.

import CoreMetrics
import Forking
import Synchronization

/// The metrics of one name: one for each combination of label values.
final class Family<Metric: Sendable>: Sendable {
    private let labels: [String]
    private let make: @Sendable ([(String, String)]) -> Metric
    private let made = Mutex<[[String]: Metric]>([:])

    init(_ labels: String..., make: @escaping @Sendable ([(String, String)]) -> Metric) {
        self.labels = labels
        self.make = make
    }

    subscript(values: String...) -> Metric {
        made.withLock { made in
            if let metric = made[values] { return metric }
            let metric = make(Array(zip(labels, values)))
            made[values] = metric
            return metric
        }
    }
}

/// A count as a gauge. Several threads may change it: the lock makes the last value the right one.
final class LiveGauge: Sendable {
    private let meter: Meter
    private let count = Mutex(0)

    init(_ meter: Meter) {
        self.meter = meter
        meter.set(0)
    }

    func change(by difference: Int) {
        count.withLock {
            $0 += difference
            meter.set(max(0, $0))  // an end may be reported before its start
        }
    }
}

/// Creates metrics with a common prefix.
struct MetricMaker: Sendable {
    let prefix: String
    let factory: any MetricsFactory

    func counter(_ name: String, _ labels: [(String, String)] = []) -> Counter {
        Counter(label: prefix + name, dimensions: labels, factory: factory)
    }

    func timer(_ name: String, _ labels: [(String, String)] = []) -> Timer {
        Timer(label: prefix + name, dimensions: labels, factory: factory)
    }

    func gauge(_ name: String) -> LiveGauge { LiveGauge(Meter(label: prefix + name, factory: factory)) }
}

extension Timer {
    func record(_ duration: Duration) { recordNanoseconds(duration.inNanoseconds) }
}
