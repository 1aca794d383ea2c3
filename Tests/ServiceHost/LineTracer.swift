// SPDX-License-Identifier: Apache-2.0

import Glibc
import Synchronization
import Tracing

/// Says `span NAME id=… parent=… trace=… pid=…` when a span ends; of one whose name begins with `later` when it is
/// flushed.
struct LineTracer: Tracer {
    final class Span: Tracing.Span {
        let context: ServiceContext
        private let ids: IDs
        private let parent: String
        private let name: Mutex<String>

        init(_ name: String, in given: ServiceContext) {
            parent = given[IDs.Key.self]?.span ?? "none"
            ids = IDs(trace: given[IDs.Key.self]?.trace ?? newID(), span: newID())
            self.name = Mutex(name)
            var context = given
            context[IDs.Key.self] = ids
            self.context = context
        }

        var operationName: String {
            get { name.withLock { $0 } }
            set { name.withLock { $0 = newValue } }
        }
        var attributes: SpanAttributes {
            get { [:] }
            set {}
        }
        var isRecording: Bool { true }

        func end<Instant: TracerInstant>(at instant: @autoclosure () -> Instant) {
            let line = "span \(operationName) id=\(ids.span) parent=\(parent) trace=\(ids.trace) pid=\(getpid())"
            if operationName.hasPrefix("later") { unflushed.withLock { $0.append(line) } } else { say(line) }
        }

        func setStatus(_ status: SpanStatus) {}
        func addEvent(_ event: SpanEvent) {}
        func addLink(_ link: SpanLink) {}
        func recordError<Instant: TracerInstant>(
            _ error: any Error, attributes: SpanAttributes, at instant: @autoclosure () -> Instant
        ) {}
    }

    struct IDs {
        enum Key: ServiceContextKey { typealias Value = IDs }

        let trace: String
        let span: String
    }

    func startSpan<Instant: TracerInstant>(
        _ operationName: String, context: @autoclosure () -> ServiceContext, ofKind kind: SpanKind,
        at instant: @autoclosure () -> Instant, function: String, file fileID: String, line: UInt
    ) -> Span {
        Span(operationName, in: context())
    }

    func forceFlush() { Self.flush() }

    static func flush() {
        unflushed.withLock { lines in
            lines.forEach(say)
            lines = []
        }
    }

    func inject<Carrier, Inject: Injector>(
        _ context: ServiceContext, into carrier: inout Carrier, using injector: Inject
    ) where Inject.Carrier == Carrier {
        guard let ids = context[IDs.Key.self] else { return }
        injector.inject("\(ids.trace)-\(ids.span)", forKey: "trace", into: &carrier)
    }

    /// As many do, makes up what was not sent.
    func extract<Carrier, Extract: Extractor>(
        _ carrier: Carrier, into context: inout ServiceContext, using extractor: Extract
    ) where Extract.Carrier == Carrier {
        let sent = extractor.extract(key: "trace", from: carrier)?.split(separator: "-").map(String.init)
        context[IDs.Key.self] =
            sent?.count == 2 ? IDs(trace: sent![0], span: sent![1]) : IDs(trace: newID(), span: "made-up")
    }
}

private let unflushed = Mutex<[String]>([])

private func newID() -> String { String(UInt64.random(in: .min ... .max), radix: 16) }
