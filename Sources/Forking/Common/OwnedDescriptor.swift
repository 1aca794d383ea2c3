// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// A descriptor that is closed when it is released, unless `release()` was called. Any process.
struct OwnedDescriptor: ~Copyable {
    let rawValue: Int32

    init(_ rawValue: Int32) { self.rawValue = rawValue }

    /// Opens a descriptor by a C function that stores it and returns an errno.
    init(_ call: String, _ open: (UnsafeMutablePointer<Int32>) -> Int32) throws(ForkingError) {
        var descriptor: Int32 = -1
        try check(open(&descriptor), call)
        self.init(descriptor)
    }

    /// Gives up the descriptor, which the caller must then close.
    consuming func release() -> Int32 {
        let descriptor = rawValue
        discard self
        return descriptor
    }

    deinit { forkcore_close(rawValue) }
}

/// Two connected descriptors: one for this process, and one for a process that it creates, which gets its own copy.
struct DescriptorPair: ~Copyable {
    let ours: OwnedDescriptor
    let theirs: OwnedDescriptor

    /// Opens them by a C function that stores both and returns an errno. The default makes sockets that preserve
    /// message boundaries and can pass descriptors: socketpair(2).
    init(
        _ call: String = "socketpair",
        _ open: (UnsafeMutablePointer<Int32>, UnsafeMutablePointer<Int32>) -> Int32 = forkcore_channel_open
    ) throws(ForkingError) {
        var (ours, theirs): (Int32, Int32) = (-1, -1)
        try check(open(&ours, &theirs), call)
        self.ours = OwnedDescriptor(ours)
        self.theirs = OwnedDescriptor(theirs)
    }
}
