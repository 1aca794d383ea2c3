// SPDX-License-Identifier: Apache-2.0
//
// Host and child: a call's context as bytes.

/// Texts by name that go with a call beside its bytes.
///
/// For each, the sizes of name and value, two bytes each, then name and value in UTF-8. So either may be empty, and
/// contain any character.
struct CallContext {
    /// A request's lead must be small: it is always in the message, where a child's socket has little room. Trace
    /// context is some hundred bytes; W3C's Baggage asks that 8192 be passed on.
    static let longest = 8192

    private(set) var bytes: [UInt8] = []
    /// How many texts were left out because they would have made it too long.
    private(set) var leftOut = 0

    /// Host. If all texts together are too long, the longest are left out: what links a trace is short.
    init(_ texts: [String: String]) {
        guard !texts.isEmpty else { return }
        func size(_ text: (key: String, value: String)) -> Int { 4 + text.key.utf8.count + text.value.utf8.count }
        for text in texts.sorted(by: { (size($0), $0.key) < (size($1), $1.key) }) {
            guard bytes.count + size(text) <= Self.longest else {
                leftOut += 1
                continue
            }
            for count in [text.key.utf8.count, text.value.utf8.count] {
                bytes += [UInt8(truncatingIfNeeded: count), UInt8(truncatingIfNeeded: count >> 8)]
            }
            bytes += text.key.utf8
            bytes += text.value.utf8
        }
    }

    /// Child. Bytes that are no context have the texts before the first that is cut short; what is not UTF-8 is
    /// replaced by U+FFFD.
    static func texts(in bytes: ArraySlice<UInt8>) -> [String: String] {
        var texts: [String: String] = [:]
        var rest = bytes
        func takeSize() -> Int { Int(rest.removeFirst()) | Int(rest.removeFirst()) << 8 }
        while rest.count >= 4 {
            let (name, value) = (takeSize(), takeSize())
            guard name + value <= rest.count else { break }
            let text = rest.dropFirst(name).prefix(value)
            texts[String(decoding: rest.prefix(name), as: UTF8.self)] = String(decoding: text, as: UTF8.self)
            rest = rest.dropFirst(name + value)
        }
        return texts
    }
}

extension CallMessage {
    /// Host: adds the context to a request. No context adds no byte.
    mutating func add(_ context: CallContext) {
        lead += context.bytes
        head.context = UInt16(context.bytes.count)
    }

    /// Child: a request's context.
    var context: [String: String] {
        head.context > 0 ? CallContext.texts(in: lead.suffix(Int(head.context))) : Dictionary()
    }
}
