// SPDX-License-Identifier: Apache-2.0
//
// Events as metrics of swift-metrics. Each metric is made once; those with labels when a label is first needed, which
// is never a process or a peer. Nothing starts a thread; what the metrics system does with a value is its own.

import CoreMetrics
import Forking
import Synchronization

/// Metrics of one name, one for each value of its labels.
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

/// How many there are, as a gauge. Those who count up and down may be several threads: the last value is the right one.
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
            meter.set(max(0, $0))  // the news of an end can come before that of its begin
        }
    }
}

/// Makes metrics whose names begin alike.
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
