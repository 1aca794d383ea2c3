// SPDX-License-Identifier: Apache-2.0

/// How bad an event is. From `warning` on a person should see it.
#if hasAttribute(nonexhaustive)
    @nonexhaustive
#endif
public enum EventSeverity: Comparable, Sendable {
    /// One of many of its kind, as it should be.
    case debug
    /// A step in the life of whoever tells of it.
    case info
    /// Something went wrong, for one client, child, or call.
    case warning
    /// Something went wrong that may come again, and concern others.
    case error
}
