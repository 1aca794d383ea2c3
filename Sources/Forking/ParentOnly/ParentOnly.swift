// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Synchronization

/// What belongs to a parent alone, for the whole process: the descriptors that a child closes as its first act, and the
/// signals that it takes. Every table's children leave all of it behind, whichever server it belongs to.
///
/// It changes with each worker and each call: so it is in memory that children get no copy of.
enum ParentOnly {
    static func add(_ descriptor: Int32, blocking signals: UInt64 = 0) {
        withState {
            $0.descriptors.insert(descriptor)
            $0.blockedSignals |= signals
        }
    }

    static func remove(_ descriptor: Int32, unblocking signals: UInt64 = 0) {
        withState {
            $0.descriptors.remove(descriptor)
            $0.blockedSignals &= ~signals
        }
    }

    static var blockedSignals: UInt64 { withState { $0.blockedSignals } }

    /// Calls `body` with a copy of the descriptors, but for those that a child keeps.
    static func withDescriptors<Result>(
        but kept: [Int32], _ body: (UnsafeMutableBufferPointer<Int32>) -> Result
    ) -> Result {
        withUnsafeTemporaryAllocation(of: Int32.self, capacity: withState { $0.descriptors.count }) { copy in
            var count = 0
            withState {
                // There can be more, if another thread has added them: they are not closed, as if they had come a
                // moment later.
                for index in 0..<min(copy.count, $0.descriptors.count) where !kept.contains($0.descriptors[index]) {
                    copy[count] = $0.descriptors[index]
                    count += 1
                }
            }
            return body(UnsafeMutableBufferPointer(rebasing: copy[..<count]))
        }
    }

    // MARK: Where it is

    private struct State: ~Copyable {
        var descriptors = DescriptorList()
        var blockedSignals: UInt64 = 0
    }

    /// Of one process: a child that becomes a parent itself makes one of its own. By its copy of this it sees that the
    /// rest is its parent's.
    private struct Own: ~Copyable {
        let process = forkcore_process()
        private let memory: ParentMemory
        let state: UnsafeMutablePointer<Mutex<State>>

        init() {
            guard let memory = try? ParentMemory(size: MemoryLayout<Mutex<State>>.size) else {
                preconditionFailure("no memory for what children are to leave behind")
            }
            state = memory.start.bindMemory(to: Mutex<State>.self, capacity: 1)
            state.initialize(to: Mutex(State()))
            self.memory = memory
        }
    }

    nonisolated(unsafe) private static let own = Atomic<UnsafeMutablePointer<Own>?>(nil)

    private static func withState<Result: Sendable>(_ body: (inout State) -> Result) -> Result {
        let found = own.load(ordering: .acquiring)
        if let found, found.pointee.process == forkcore_process() {
            return found.pointee.state.pointee.withLock { body(&$0) }
        }
        let made = UnsafeMutablePointer<Own>.allocate(capacity: 1)
        made.initialize(to: Own())
        if !own.compareExchange(expected: found, desired: made, ordering: .acquiringAndReleasing).exchanged {
            made.deinitialize(count: 1)  // another thread was first
            made.deallocate()
        }
        return withState(body)
    }
}

/// A descriptor that children close. It is closed when it goes away in the process that made it; in a child it is
/// closed already, and its number may be another's.
final class ParentDescriptor: Sendable {
    let rawValue: Int32
    private let mayHoldRights: Bool
    private let owner = forkcore_process()

    /// - Parameter mayHoldRights: whether descriptors may be in its queue that nobody takes: see
    ///   `forkcore_close_aside`.
    init(_ rawValue: Int32, mayHoldRights: Bool = false) {
        self.rawValue = rawValue
        self.mayHoldRights = mayHoldRights
        ParentOnly.add(rawValue)
    }

    /// The parent's end of a channel to a child, which is to attach no descriptors to what it says.
    convenience init(channel: Int32) {
        self.init(channel, mayHoldRights: forkcore_refuse_rights(channel) != 0)
    }

    /// Opens one with a C function that stores it and returns an errno.
    convenience init(_ call: String, _ open: (UnsafeMutablePointer<Int32>) -> Int32) throws(ForkingError) {
        var descriptor: Int32 = -1
        try check(open(&descriptor), call)
        self.init(descriptor)
    }

    deinit {
        guard owner == forkcore_process() else { return }
        ParentOnly.remove(rawValue)
        if mayHoldRights { forkcore_close_aside(rawValue) } else { forkcore_close(rawValue) }
    }
}

/// Signals as a readable descriptor, blocked in this thread as long as it lives. signalfd(2).
final class SignalDescriptor {
    let rawValue: Int32
    private let blocked: UInt64
    private let owner = forkcore_process()

    init(_ signals: SignalSet) throws(ForkingError) {
        var descriptor: Int32 = -1
        var blocked: UInt64 = 0
        try check(forkcore_signals_open(signals.rawValue, &descriptor, &blocked), "signalfd")
        self.rawValue = descriptor
        self.blocked = blocked
        ParentOnly.add(descriptor, blocking: blocked)
    }

    /// Calls `body` with signals that are pending, and for SIGCHLD with the child that sent it. Not with all, so that
    /// whoever sends many cannot keep us here: the descriptor stays readable.
    func take(_ body: (Signal, ProcessID) -> Void) {
        withUnsafeTemporaryAllocation(of: forkcore_signal.self, capacity: Int(FORKCORE_SIGNALS_AT_ONCE)) { batch in
            var count = 0
            guard forkcore_signals_read(rawValue, batch.baseAddress, batch.count, &count) == 0 else { return }
            for signal in batch.prefix(count) { body(Signal(rawValue: signal.number), signal.sender) }
        }
    }

    deinit {
        guard owner == forkcore_process() else { return }
        ParentOnly.remove(rawValue, unblocking: blocked)
        forkcore_signals_close(rawValue, blocked)
    }
}
