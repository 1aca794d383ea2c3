// SPDX-License-Identifier: Apache-2.0

/// The steps by which a server stops, each harder than the one before.
public enum StopStep: Comparable, Sendable {
    /// No new clients, but those that have connected already; they, and those being served, get the drain time to end.
    case drain
    /// SIGTERM to the children and their process groups; after the kill time, SIGKILL.
    case terminate
    /// SIGKILL to the children and their process groups.
    case kill
}
