// SPDX-License-Identifier: Apache-2.0
//
// Where logs and metrics go.

import CoreMetrics
import Glibc
import Logging
import Synchronization

/// A line on stdout, in one write: threads and processes share it.
func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    _ = write(STDOUT_FILENO, bytes, bytes.count)
}

/// `LEVEL MESSAGE | KEY=VALUE …`, the keys in order.
struct StdoutLog: LogHandler {
    var metadata: Logger.Metadata = [:]
    var metadataProvider: Logger.MetadataProvider?
    var logLevel = Logger.Level.debug

    subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    func log(event: LogEvent) {
        let all = metadata.merging(metadataProvider?.get() ?? [:]) { $1 }.merging(event.metadata ?? [:]) { $1 }
        let fields = all.sorted { $0.key < $1.key }.map { "\($0)=\($1)" }
        say("\(event.level) \(event.message) | " + fields.joined(separator: " "))
    }
}

let logger = Logger(label: "events") { _ in StdoutLog() }

/// Says `made NAME{LABEL=VALUE}` once for each metric, and `NAME{LABEL=VALUE} VALUE` whenever it has one: of a counter
/// its sum.
final class StdoutMetrics: MetricsFactory {
    final class Line: CounterHandler, RecorderHandler, MeterHandler, TimerHandler {
        private let name: String
        private let sum = Mutex<Int64>(0)

        init(_ label: String, _ dimensions: [(String, String)]) {
            name = label + "{" + dimensions.map { "\($0)=\($1)" }.joined(separator: ",") + "}"
            say("made \(name)")
        }

        func increment(by amount: Int64) {
            sum.withLock {
                $0 += amount
                say("\(name) \($0)")
            }
        }
        func reset() { sum.withLock { $0 = 0 } }
        func record(_ value: Int64) { say("\(name) \(value)") }
        func record(_ value: Double) { say("\(name) \(value)") }
        func set(_ value: Int64) { say("\(name) \(value)") }
        func set(_ value: Double) { say("\(name) \(value)") }
        func increment(by amount: Double) { say("\(name) +\(amount)") }
        func decrement(by amount: Double) { say("\(name) -\(amount)") }
        func recordNanoseconds(_ duration: Int64) { say("\(name) \(duration)") }
    }

    func makeCounter(label: String, dimensions: [(String, String)]) -> any CounterHandler { Line(label, dimensions) }
    func makeRecorder(label: String, dimensions: [(String, String)], aggregate: Bool) -> any RecorderHandler {
        Line(label, dimensions)
    }
    func makeMeter(label: String, dimensions: [(String, String)]) -> any MeterHandler { Line(label, dimensions) }
    func makeTimer(label: String, dimensions: [(String, String)]) -> any TimerHandler { Line(label, dimensions) }
    func destroyCounter(_ handler: any CounterHandler) {}
    func destroyRecorder(_ handler: any RecorderHandler) {}
    func destroyMeter(_ handler: any MeterHandler) {}
    func destroyTimer(_ handler: any TimerHandler) {}
}
