// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
public import SystemPackage

/// Asks a server to stop: from any thread, from a hook, before it serves or while it does. It takes effect at once.
///
/// A signal handler writes `word(for:)`, put aside before, to `descriptor` by write(2), which is async-signal-safe;
/// this type's Swift methods are not. In a child they do nothing: a child cannot stop its parent's server.
public final class StopSwitch: Sendable {
    /// An eventfd(2), non-blocking. It stays the switch's. Children do not have it.
    public var descriptor: FileDescriptor { FileDescriptor(rawValue: event.rawValue) }

    private let event: ParentDescriptor
    private let owner = forkcore_process()

    init() throws(ForkingError) {
        event = try ParentDescriptor("eventfd", forkcore_event_open)
    }

    /// Asks for a step. Asking for one that was passed already changes nothing.
    public func stop(_ step: StopStep = .drain) {
        guard owner == forkcore_process() else { return }
        forkcore_event_add(descriptor.rawValue, Self.word(for: step))
    }

    /// The eight bytes that ask for a step when they are written to `descriptor`.
    public static func word(for step: StopStep) -> UInt64 {
        switch step {
        case .drain: FORKCORE_STOP_DRAIN
        case .terminate: FORKCORE_STOP_TERMINATE
        case .kill: FORKCORE_STOP_KILL
        }
    }

    /// Parent: the hardest step that was asked for since the last look.
    func take() -> StopStep? {
        let sum = forkcore_event_take(descriptor.rawValue)
        return [StopStep.kill, .terminate, .drain].first { sum >= Self.word(for: $0) }
    }
}
