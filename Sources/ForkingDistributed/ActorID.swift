// SPDX-License-Identifier: Apache-2.0

/// Identifies an actor of an `IsolateSystem`: the process that it lives in, and its number there. Any process.
///
/// It is valid in the host and in all of its isolates, as long as the host lives.
public struct IsolateActorID: Hashable, Codable, Sendable, CustomStringConvertible {
    /// 0 for the host; otherwise the number of the isolate.
    let process: UInt64
    let number: UInt64

    /// The actor that an isolate was created for.
    static func main(of process: UInt64) -> IsolateActorID { IsolateActorID(process: process, number: 1) }

    /// For people, such as `isolate 7, actor 1`.
    public var description: String {
        process == 0 ? "host, actor \(number)" : "isolate \(process), actor \(number)"
    }
}
