// SPDX-License-Identifier: Apache-2.0

import SystemPackage

/// Host: what a message from a child or the zygote says of a call. Nothing in it is trusted.
extension CallMessage {
    /// Why there is no reply, in a message that says so.
    var refusal: ForkingError {
        switch kind {
        case .threw:
            let texts = texts(2)
            return .threw(type: texts[0], description: texts[1])
        case .limitRefused:
            return .limitRefused(call: ForkingError.printable(texts(1)[0]), Errno(rawValue: head.code))
        case .notForked: return .system(call: ForkingError.printable(texts(1)[0]), Errno(rawValue: head.code))
        default: return Self.noAnswer
        }
    }

    /// The reply of which this message is the last part. Closes its descriptors if it is not as expected.
    mutating func reply(
        after parts: [UInt8], expecting count: Int, orNone: Bool = false, longest: Int
    ) -> Result<Zygote.Reply, ForkingError> {
        let descriptors = descriptors
        self.descriptors = []
        let given = max(descriptors.count, Int(head.descriptors))
        guard descriptors.count == count || orNone && descriptors.isEmpty, given == descriptors.count else {
            discard(descriptors)
            return .failure(
                .invalid(
                    "the child sent \(Self.counted(given)), and \(count) \(count == 1 ? "was" : "were") expected"))
        }
        let size = max(parts.isEmpty ? 0 : head.count, UInt64(parts.count + bytes.count))
        guard size <= UInt64(longest) else {
            discard(descriptors)
            return .failure(Self.tooLong(size, longest))
        }
        return .success(Zygote.Reply(parts.isEmpty ? bytes : parts + bytes, received: descriptors))
    }

    private static func counted(_ count: Int) -> String { count == 1 ? "1 descriptor" : "\(count) descriptors" }
}
