// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// The errno of a call of libc's that returns a negative number where it fails; 0 if it has succeeded. Write it right
/// behind that call, or around it: errno is read here, and nowhere else in Swift. Any process.
package func failure(of result: some SignedInteger) -> Int32 {
    let code = errno
    return result < 0 ? code : 0
}

/// Makes an error of what a C function returned, unless that is 0.
func check(_ code: Int32, _ call: @autoclosure () -> String) throws(ForkingError) {
    if code != 0 {
        throw .system(call: call(), Errno(rawValue: code))
    }
}

/// What kind of socket a descriptor is, such as SOCK_STREAM; nil if it is none. SO_TYPE in socket(7). Any process.
package func socketType(of descriptor: Int32) -> Int32? {
    var type: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    return getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &length) == 0 ? type : nil
}

// MARK: Waiting. All of Swift waits for descriptors here, but for a worker, whose epoll instance wakes it alone (`AcceptQueue`).

/// Waits until something can be read from one of some descriptors, or its other end has gone, but no longer than
/// `time`; nil waits for ever. One that is negative is passed over. There are at most 8. ppoll(2). Any process.
///
/// - Returns: a bit for each that is so, the first one's the lowest. None after the time, and if a signal came in
///   between.
@inline(__always)
func waitUntilReadable<let count: Int>(
    _ descriptors: InlineArray<count, Int32>, atMost time: Duration? = nil
) throws(ForkingError) -> UInt32 {
    let nanoseconds = time.map { max(0, $0.inNanoseconds) } ?? -1
    var ready: UInt32 = 0
    let code = descriptors.span.withUnsafeBufferPointer {
        forkcore_wait_readable($0.baseAddress, $0.count, nanoseconds, &ready)
    }
    try check(code, "ppoll")
    return ready
}

/// The same for one descriptor. Returns whether it is so.
func waitUntilReadable(_ descriptor: Int32, atMost time: Duration? = nil) throws(ForkingError) -> Bool {
    try waitUntilReadable([descriptor], atMost: time) != 0
}

/// Whether something can be read from a descriptor now, or its other end has gone.
func isReadable(_ descriptor: Int32) -> Bool { (try? waitUntilReadable(descriptor, atMost: .zero)) ?? false }

/// Waits until the other end of a socket has closed, or will send no more, whatever is to be read, but no longer than
/// `time`. EPOLLRDHUP in epoll_ctl(2). Any process.
func waitUntilHungUp(_ descriptor: Int32, atMost time: Duration) throws(ForkingError) -> Bool {
    let poll = try OwnedDescriptor("epoll_create1", forkcore_poll_open)
    try check(forkcore_poll_add_hang_up(poll.rawValue, descriptor, 0), "epoll_ctl")
    return try waitUntilReadable(poll.rawValue, atMost: time)
}
