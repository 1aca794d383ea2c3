// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
public import SystemPackage

/// Asks a server to stop: from any thread, from a hook, before it serves or while it serves. The server stops at once.
///
/// A signal handler must not call this type's methods. It can write `word(for:)`, computed before, to `descriptor` with
/// write(2), which is async-signal-safe. In a child the methods do nothing: a child cannot stop its parent's server.
public final class StopSwitch: Sendable {
    /// A non-blocking eventfd(2). The switch owns it. Children do not have it.
    public var descriptor: FileDescriptor { FileDescriptor(rawValue: event.rawValue) }

    private let event: ParentDescriptor
    private let owner = forkcore_process()

    init() throws(ForkingError) {
        event = try ParentDescriptor("eventfd", forkcore_event_open)
    }

    /// Asks for a step of stopping. Has no effect if the server has already reached that step. Any thread.
    public func stop(_ step: StopStep = .drain) {
        guard owner == forkcore_process() else { return }
        forkcore_event_add(descriptor.rawValue, Self.word(for: step))
    }

    /// The value that requests a step when its eight bytes are written to `descriptor`.
    public static func word(for step: StopStep) -> UInt64 {
        switch step {
        case .drain: FORKCORE_STOP_DRAIN
        case .terminate: FORKCORE_STOP_TERMINATE
        case .kill: FORKCORE_STOP_KILL
        }
    }

    /// Parent: takes the hardest step that was requested since the last call.
    func take() -> StopStep? {
        let sum = forkcore_event_take(descriptor.rawValue)
        return [StopStep.kill, .terminate, .drain].first { sum >= Self.word(for: $0) }
    }
}
