// SPDX-License-Identifier: Apache-2.0

/// The steps by which a server stops, each harder than the one before.
public enum StopStep: Comparable, Sendable {
    /// The server stops accepting. Clients that are being served, and those that have already connected, may finish
    /// within the drain timeout.
    case drain
    /// SIGTERM to the children and their process groups; SIGKILL after the kill timeout.
    case terminate
    /// SIGKILL to the children and their process groups.
    case kill
}
