// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import Synchronization
import SystemPackage

/// Host: a call of an isolate. Its variables are accessed under the isolate's lock, except the request, which belongs
/// to the thread that sends it.
final class IsolateCall: @unchecked Sendable {
    private static let last = Atomic<UInt64>(0)
    static func nextID() -> UInt64 { last.add(1, ordering: .relaxed).newValue }

    let id: UInt64
    let begun: Instant
    let deadline: Duration?
    let traits: Zygote.Isolate.CallTraits
    /// See `IsolateQueue.standing`.
    var isStanding: Bool { traits.contains(.standing) }
    let expecting: Int
    let longest: Int
    /// What is to be called at its end; nil if a thread waits.
    let body: (@Sendable (Result<Zygote.Reply, ForkingError>) -> Void)?
    /// Incremented when its thread has something to do.
    let word = UnsafeWord()
    var request: CallMessage
    var sent: Instant?
    /// The parts of a long reply received so far.
    var parts: [UInt8] = []
    /// The size of a reply that is too long. Its parts are received, but not kept.
    var tooLong: UInt64?
    var outcome: Result<Zygote.Reply, ForkingError>?

    init(
        _ id: UInt64, _ request: CallMessage, deadline: Duration?, longest: Int,
        traits: Zygote.Isolate.CallTraits,
        _ body: (@Sendable (Result<Zygote.Reply, ForkingError>) -> Void)?
    ) {
        (self.id, self.request, self.deadline, self.longest, self.body) = (id, request, deadline, longest, body)
        self.traits = traits
        expecting = Int(request.head.descriptors)
        begun = .now
    }

    /// Its descriptors are duplicates: a call may end while another thread sends it, and its caller then closes the
    /// originals.
    deinit { request.descriptors.forEach(forkcore_close) }

    var until: Instant? { deadline.map { begun + $0 } }
}

extension CallMessage {
    /// The call then owns its descriptors. See `dropPayload`.
    mutating func duplicateDescriptors() throws(ForkingError) {
        let given = descriptors
        descriptors = []
        for descriptor in given {
            let copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 0)
            let code = failure(of: copy)
            guard code == 0 else {
                descriptors.forEach(forkcore_close)
                throw .system(call: "fcntl", Errno(rawValue: code))
            }
            descriptors.append(copy)
        }
    }

    /// Frees what was sent.
    mutating func dropPayload() {
        bytes = []
        descriptors.forEach(forkcore_close)
        descriptors = []
    }
}
