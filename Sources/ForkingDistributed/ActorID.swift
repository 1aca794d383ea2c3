// SPDX-License-Identifier: Apache-2.0

import Synchronization

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

    private enum CodingKeys: CodingKey { case process, number }
    private static let anyEncoded = Atomic(false)

    public func encode(to encoder: any Encoder) throws {
        Self.anyEncoded.store(true, ordering: .relaxed)
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(process, forKey: .process)
        try container.encode(number, forKey: .number)
    }

    /// Whether this process may have given an identifier to another one. Before that nobody else calls its actors.
    static var mayBeKnownElsewhere: Bool { anyEncoded.load(ordering: .relaxed) }

    /// For people, such as `isolate 7, actor 1`.
    public var description: String {
        process == 0 ? "host, actor \(number)" : "isolate \(process), actor \(number)"
    }
}
