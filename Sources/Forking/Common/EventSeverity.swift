// SPDX-License-Identifier: Apache-2.0

/// How serious an event is. An operator should see events of severity `warning` and above.
#if hasAttribute(nonexhaustive)
    @nonexhaustive
#endif
public enum EventSeverity: Comparable, Sendable {
    /// Normal, and one of many.
    case debug
    /// A step in the life of a server or zygote.
    case info
    /// Something went wrong for one client, child or call.
    case warning
    /// Something went wrong that may happen again and affect others.
    case error
}
