// SPDX-License-Identifier: Apache-2.0
//
// Any process: what a value of a configuration, or of options, must be. Acts on nothing.

/// Throws unless `time` is positive.
func requirePositive(_ name: StaticString, _ time: Duration) throws(ForkingError) {
    guard time <= .zero else { return }
    throw .invalid("\(name) is \(time), and must be positive")
}

/// Throws unless `time` is positive, or nil.
func requirePositive(_ name: StaticString, _ time: Duration?) throws(ForkingError) {
    guard let time, time <= .zero else { return }
    throw .invalid("\(name) is \(time), and must be positive, or nil for none")
}

/// Throws if `time` is negative.
func requireNotNegative(_ name: StaticString, _ time: Duration?) throws(ForkingError) {
    guard let time, time < .zero else { return }
    throw .invalid("\(name) is \(time), and cannot be negative")
}

/// Throws unless `count` is 1 or more.
func requireAtLeast1(_ name: StaticString, _ count: Int) throws(ForkingError) {
    guard count < 1 else { return }
    throw .invalid("\(name) is \(count), and must be at least 1")
}

/// Throws unless `count` is 1 or more, or nil.
func requireAtLeast1(_ name: StaticString, _ count: Int?) throws(ForkingError) {
    guard let count, count < 1 else { return }
    throw .invalid("\(name) is \(count), and must be at least 1, or nil for none")
}
