// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization

/// What belongs to a parent alone, for the whole process: the descriptors that a child closes as its first act, and the
/// signals that it takes. Every table's children leave all of it behind, whichever server it belongs to.
enum ParentOnly {
    struct State {
        /// Ascending.
        var descriptors: [Int32] = []
        var blockedSignals: UInt64 = 0
        /// A child that has become a parent itself has none of its parent's.
        let owner = forkcore_process()

        /// Where a descriptor stands, or would. There can be thousands of pidfds.
        func place(of descriptor: Int32) -> Int {
            var (low, high) = (0, descriptors.count)
            while low < high {
                let middle = (low + high) / 2
                if descriptors[middle] < descriptor { low = middle + 1 } else { high = middle }
            }
            return low
        }
    }

    private static let shared = Mutex(State())
    private static let version = Atomic(0)

    static var current: State {
        var state = State()
        withCurrent { state = $0 }
        return state
    }

    /// A table's copy of it, while it does not change. To lock, or to count references, for each fork would be to write to
    /// pages that children share.
    struct Copy: ~Copyable {
        private(set) var descriptors = UnsafeMutableBufferPointer<Int32>.allocate(capacity: 0)
        private(set) var blockedSignals: UInt64 = 0
        private var version = -1

        mutating func refresh() {
            guard version != ParentOnly.version.load(ordering: .acquiring) else { return }
            descriptors.deallocate()
            shared.withLock {
                descriptors = .allocate(capacity: $0.descriptors.count)
                _ = descriptors.initialize(from: $0.descriptors)
                blockedSignals = $0.blockedSignals
                version = ParentOnly.version.load(ordering: .relaxed)
            }
        }

        deinit { descriptors.deallocate() }
    }

    static func add(_ descriptor: Int32, blocking signals: UInt64 = 0) {
        change {
            $0.descriptors.insert(descriptor, at: $0.place(of: descriptor))
            $0.blockedSignals |= signals
        }
    }

    static func remove(_ descriptor: Int32, unblocking signals: UInt64 = 0) {
        change {
            let place = $0.place(of: descriptor)
            if place < $0.descriptors.count, $0.descriptors[place] == descriptor { $0.descriptors.remove(at: place) }
            $0.blockedSignals &= ~signals
        }
    }

    private static func change(_ body: (inout State) -> Void) {
        withCurrent {
            body(&$0)
            version.add(1, ordering: .releasing)
        }
    }

    private static func withCurrent(_ body: (inout State) -> Void) {
        shared.withLock {
            if $0.owner != forkcore_process() { $0 = State() }
            body(&$0)
        }
    }
}

/// A descriptor that children close. It is closed when it goes away in the process that made it; in a child it is closed
/// already, and its number may be another's.
final class ParentDescriptor: Sendable {
    let rawValue: Int32
    private let mayHoldRights: Bool
    private let owner = forkcore_process()

    /// - Parameter mayHoldRights: whether descriptors may be in its queue that nobody takes: see `forkcore_close_aside`.
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

    /// Calls `body` with signals that are pending, and for SIGCHLD with the child that sent it. Not with all, so that whoever
    /// sends many cannot keep us here: the descriptor stays readable.
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
