// SPDX-License-Identifier: Apache-2.0

public import SystemPackage

extension Zygote {
    /// Starts a call whose child maps `memory` instead of getting a copy of its bytes: `Request.sharedMemory(at:)`.
    /// Host, any thread.
    ///
    /// Other calls may share the same memory, and it may go away as soon as this returns. It is the first of the
    /// call's descriptors, and `descriptors` follow. The other parameters are those of `runAndWait`.
    public func begin(
        _ name: String, _ bytes: [UInt8] = [], sharing memory: borrowing SharedMemory,
        descriptors: [FileDescriptor] = [], expecting count: Int = 0, deadline: Duration? = nil,
        limits: ResourceLimits? = nil, maxReplyBytes: Int? = nil
    ) throws(ForkingError) -> Call {
        try begin(
            name, bytes, descriptors: [memory.descriptor] + descriptors, expecting: count, deadline: deadline,
            limits: limits, maxReplyBytes: maxReplyBytes)
    }
}
