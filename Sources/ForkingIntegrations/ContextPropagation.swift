// SPDX-License-Identifier: Apache-2.0
//
// Host and child: a caller's trace context and log metadata go with its call.

public import Forking
import Instrumentation
import Logging

extension Zygote.Hooks {
    /// Makes each call carry its caller's trace context and log metadata, which are bound around the handler in the
    /// child. A span that the handler starts then has the caller's span as parent.
    ///
    /// ```swift
    /// InstrumentationSystem.bootstrap(tracer)
    /// LoggingSystem.bootstrap(…)
    /// var hooks = Zygote.Hooks()
    /// hooks.propagateContext()
    /// let zygote = try Zygote.start(hooks: hooks) { … }
    /// ```
    ///
    /// - `ServiceContext.current`: what the bootstrapped instrument injects on behalf of the caller is extracted by the
    ///   same instrument in the child, as between a client and a server. So bootstrap it before `Zygote.start`.
    /// - `Logger.current`: in the child it has the metadata of the caller's, as texts. Metadata that the child's own
    ///   log handler sets, such as its pid, stays. A caller without it, but with a logger of its own, calls within
    ///   `withLogger(logger) { _ in … }`.
    ///
    /// What the hooks `context` and `aroundHandler` did before, they still do. A call without trace context and log
    /// metadata carries nothing, and its handler has no `ServiceContext.current`.
    public mutating func propagateContext() {
        let (context, around) = (context, aroundHandler)
        self.context = { callersContext().merging(context()) { $1 } }
        aroundHandler = { request, handle in
            guard let around else { return try binding(request.context, handle) }
            try around(request) { try binding(request.context, handle) }
        }
    }
}

/// Before the names of what the instrument injects, and of log metadata. The hooks may have texts of their own.
private let (tracePrefix, logPrefix) = ("trace.", "log.")

/// Host.
private func callersContext() -> [String: String] {
    var texts: [String: String] = [:]
    if let context = ServiceContext.current {
        InstrumentationSystem.instrument.inject(context, into: &texts, using: Carrier())
    }
    for (key, value) in Logger.current.handler.metadata { texts[logPrefix + key] = "\(value)" }
    return texts
}

/// Child.
private func binding(_ texts: [String: String], _ handle: () throws -> Void) throws {
    var context: ServiceContext?
    // Without anything to extract, an instrument may make something up.
    if texts.keys.contains(where: { $0.hasPrefix(tracePrefix) }) {
        var extracted = ServiceContext.topLevel
        InstrumentationSystem.instrument.extract(texts, into: &extracted, using: Carrier())
        context = extracted
    }
    // Nil too, because the zygote may have been started where one was bound.
    try ServiceContext.withValue(context) {
        let logged = texts.filter { $0.key.hasPrefix(logPrefix) }
        guard !logged.isEmpty else { return try handle() }
        var logger = Logger.current
        for (key, value) in logged {
            let key = String(key.dropFirst(logPrefix.count))
            if logger[metadataKey: key] == nil { logger[metadataKey: key] = .string(value) }
        }
        try withLogger(logger) { _ in try handle() }
    }
}

private struct Carrier: Injector, Extractor {
    func inject(_ value: String, forKey key: String, into texts: inout [String: String]) {
        texts[tracePrefix + key] = value
    }
    func extract(key: String, from texts: [String: String]) -> String? { texts[tracePrefix + key] }
}
