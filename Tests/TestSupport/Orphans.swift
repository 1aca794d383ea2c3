// SPDX-License-Identifier: Apache-2.0

import Glibc

/// Becomes nobody for good, as a server does that was started as root; the kernel then forgets the signal that this
/// process would get at its parent's end. Whether it could.
public func giveUpRoot() -> Bool {
    setgid(65_534) == 0 && setuid(65_534) == 0
}

/// The same, and whatever else would end it with its parent: a descriptor of which the kernel tells it by a signal.
public func outliveParent() -> Bool {
    for descriptor in openDescriptors() {
        let flags = fcntl(Int32(descriptor), F_GETFL)
        if flags & O_ASYNC != 0 { _ = fcntl(Int32(descriptor), F_SETFL, flags & ~O_ASYNC) }
    }
    return giveUpRoot()
}

/// The eventfds of this process.
public func eventDescriptors() -> [Int32] {
    openDescriptors().map(Int32.init).filter { descriptor in
        var buffer = [CChar](repeating: 0, count: 100)
        let count = readlink("/proc/self/fd/\(descriptor)", &buffer, buffer.count)
        return String(decoding: buffer.prefix(max(0, count)).map(UInt8.init(bitPattern:)), as: UTF8.self)
            == "anon_inode:[eventfd]"
    }
}
