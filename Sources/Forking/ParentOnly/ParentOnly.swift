// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Synchronization

/// What belongs to the parent alone, for the whole process: the descriptors that a child closes as its first act, and
/// the signals that this library has blocked. The children of every table give up all of it, whichever server it
/// belongs to.
///
/// It changes with each worker and each call, so it is kept in memory that is not copied to children.
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

    /// Calls `body` with a copy of the descriptors, except those that a child keeps.
    static func withDescriptors<Result>(
        but kept: [Int32], _ body: (UnsafeMutableBufferPointer<Int32>) -> Result
    ) -> Result {
        withUnsafeTemporaryAllocation(of: Int32.self, capacity: withState { $0.descriptors.count }) { copy in
            var count = 0
            withState {
                // Another thread may have added some since. They are not closed, as if they had been added after the
                // fork.
                for index in 0..<min(copy.count, $0.descriptors.count) where !kept.contains($0.descriptors[index]) {
                    copy[count] = $0.descriptors[index]
                    count += 1
                }
            }
            return body(UnsafeMutableBufferPointer(rebasing: copy[..<count]))
        }
    }

    // MARK: The state of this process

    private struct State: ~Copyable {
        var descriptors = DescriptorList()
        var blockedSignals: UInt64 = 0
    }

    /// The state of one process. A child that becomes a parent makes a state of its own: its copy of `process` shows
    /// that this one is its parent's.
    private struct Own: ~Copyable {
        let process = forkcore_process()
        private let memory: ParentMemory
        let state: UnsafeMutablePointer<Mutex<State>>

        init() {
            guard let memory = try? ParentMemory(size: MemoryLayout<Mutex<State>>.size) else {
                preconditionFailure("no memory for the list of descriptors that children close")
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

/// A descriptor that children close. Deinit closes it only in the process that made it: in a child it is already
/// closed, and its number may be in use again.
final class ParentDescriptor: Sendable {
    let rawValue: Int32
    private let mayHoldRights: Bool
    private let owner = forkcore_process()

    /// - Parameter mayHoldRights: whether its queue may hold attached descriptors that this process never takes: see
    ///   `forkcore_close_aside`.
    init(_ rawValue: Int32, mayHoldRights: Bool = false) {
        self.rawValue = rawValue
        self.mayHoldRights = mayHoldRights
        ParentOnly.add(rawValue)
    }

    /// The parent's end of a channel to a child. The child must not attach descriptors to its messages.
    convenience init(channel: Int32) {
        self.init(channel, mayHoldRights: forkcore_refuse_rights(channel) != 0)
    }

    /// Opens a descriptor with a C function that stores it and returns an errno.
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

/// Signals as a readable descriptor. They are blocked in this thread while it exists. signalfd(2).
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

    /// Calls `body` with pending signals, and for SIGCHLD with the child that sent it. It takes a limited number, so
    /// that a process that sends many cannot keep the loop here: the descriptor stays readable.
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
