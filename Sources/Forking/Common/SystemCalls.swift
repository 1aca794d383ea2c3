// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// The errno of a call of libc's that returns a negative number where it fails; 0 if it has succeeded. Write it right behind
/// that call, or around it: errno is read here, and nowhere else in Swift. Any process.
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

/// Waits until something can be read from a descriptor, or its other end has gone, but no longer than `time`; nil waits for ever.
/// ppoll(2). Any process.
///
/// - Returns: whether it is so. Without a time-out false, too, if a signal came in between.
func waitUntilReadable(_ descriptor: Int32, atMost time: Duration? = nil) throws(ForkingError) -> Bool {
    var (descriptor, ready): (Int32, UInt32) = (descriptor, 0)
    try check(forkcore_wait_readable(&descriptor, 1, time?.inNanoseconds ?? -1, &ready), "ppoll")
    return ready != 0
}

/// Whether something can be read from a descriptor now, or its other end has gone.
func isReadable(_ descriptor: Int32) -> Bool { (try? waitUntilReadable(descriptor, atMost: .zero)) ?? false }
