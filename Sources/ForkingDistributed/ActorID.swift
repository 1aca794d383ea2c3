// SPDX-License-Identifier: Apache-2.0

/// Identifies an actor of an `IsolateSystem`: the process that it lives in, and its number there. Any process.
///
/// It is valid in the host and in all of its isolates, as long as the host lives. Nobody can guess it: a child that was
/// taken over calls no other actors than those that it was given.
public struct IsolateActorID: Hashable, Codable, Sendable, CustomStringConvertible {
    /// 0 for the host; otherwise the number of the isolate.
    let process: UInt64
    let number: UInt64

    /// The actor that an isolate was created for.
    static func main(of process: UInt64) -> IsolateActorID { IsolateActorID(process: process, number: 1) }

    /// Not 1. Every codec can pass it, even as a floating-point number.
    static func unknownNumber() -> UInt64 { .random(in: 2..<1 << 53) }

    /// For people, such as `isolate 7, actor 1`.
    public var description: String {
        process == 0 ? "host, actor \(number)" : "isolate \(process), actor \(number)"
    }
}
