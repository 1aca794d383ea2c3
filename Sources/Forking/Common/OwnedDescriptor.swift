// SPDX-License-Identifier: Apache-2.0

import CForkCore

/// A descriptor that is closed when it goes away, unless it was released. Any process.
struct OwnedDescriptor: ~Copyable {
    let rawValue: Int32

    init(_ rawValue: Int32) { self.rawValue = rawValue }

    /// Opens one with a C function that stores it and returns an errno.
    init(_ call: String, _ open: (UnsafeMutablePointer<Int32>) -> Int32) throws(ForkingError) {
        var descriptor: Int32 = -1
        try check(open(&descriptor), call)
        self.init(descriptor)
    }

    /// From now on it is the caller's to close.
    consuming func release() -> Int32 {
        let descriptor = rawValue
        discard self
        return descriptor
    }

    deinit { forkcore_close(rawValue) }
}

/// Two connected descriptors. One stays in this process, the other is for one that it makes, which has a copy of its
/// own then.
struct DescriptorPair: ~Copyable {
    let ours: OwnedDescriptor
    let theirs: OwnedDescriptor

    /// Opens them with a C function that stores ours and theirs and returns an errno. By default sockets that keep
    /// messages apart and can pass descriptors on: socketpair(2).
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
