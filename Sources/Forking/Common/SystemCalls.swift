// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// The errno of a libc call that returned `result`: 0 unless it is negative. Call this directly after that call, or
/// around it: it is the only place in Swift that reads errno. Any process.
package func failure(of result: some SignedInteger) -> Int32 {
    let code = errno
    return result < 0 ? code : 0
}

/// Throws an error unless `code`, the result of a C function, is 0.
func check(_ code: Int32, _ call: @autoclosure () -> String) throws(ForkingError) {
    if code != 0 {
        throw .system(call: call(), Errno(rawValue: code))
    }
}

/// The type of a socket, such as SOCK_STREAM; nil if the descriptor is not a socket. SO_TYPE in socket(7). Any process.
package func socketType(of descriptor: Int32) -> Int32? {
    var type: Int32 = 0
    var length = socklen_t(MemoryLayout<Int32>.size)
    return getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &length) == 0 ? type : nil
}

// MARK: Waiting
//
// All Swift code waits for descriptors here, except workers, whose epoll instances wake only one of them:
// `AcceptQueue`.

/// Waits until one of at most 8 descriptors is readable or its other end has closed, but no longer than `time`; nil
/// means no limit. Negative descriptors are ignored. ppoll(2). Any process.
///
/// - Returns: a bit for each such descriptor, the lowest for the first. 0 after the time, or if a signal interrupted
///   the wait.
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

/// The same for one descriptor. Returns whether it is readable or its other end has closed.
func waitUntilReadable(_ descriptor: Int32, atMost time: Duration? = nil) throws(ForkingError) -> Bool {
    try waitUntilReadable([descriptor], atMost: time) != 0
}

/// Whether a descriptor is readable now, or its other end has closed.
func isReadable(_ descriptor: Int32) -> Bool { (try? waitUntilReadable(descriptor, atMost: .zero)) ?? false }

/// Waits until the other end of a socket has closed or will send no more, even if data can still be read, but no longer
/// than `time`. EPOLLRDHUP in epoll_ctl(2). Any process.
func waitUntilHungUp(_ descriptor: Int32, atMost time: Duration) throws(ForkingError) -> Bool {
    let poll = try OwnedDescriptor("epoll_create1", forkcore_poll_open)
    try check(forkcore_poll_add_hang_up(poll.rawValue, descriptor, 0), "epoll_ctl")
    return try waitUntilReadable(poll.rawValue, atMost: time)
}
