// SPDX-License-Identifier: Apache-2.0

/// A handler's name in the form that requests have.
struct HandlerName: BitwiseCopyable {
    static let longest = 64

    private var count: UInt8 = 0
    private var bytes = InlineArray<64, UInt8>(repeating: 0)  // `longest`

    init() {}

    /// `name` has at most 64 bytes.
    init(_ name: String) {
        for byte in name.utf8 {
            bytes[Int(count)] = byte
            count += 1
        }
    }

    func equals(_ other: HandlerName) -> Bool {
        count == other.count && bytes.indices.allSatisfy { bytes[$0] == other.bytes[$0] }
    }
}

/// The names of all handlers, in the zygote and its children. Comparing strings would count references, in memory that
/// children share copy-on-write.
struct HandlerNames: BitwiseCopyable {
    private let names: UnsafeMutableBufferPointer<HandlerName>

    init(_ handlers: [Zygote.Handlers.Entry]) {
        names = .allocate(capacity: handlers.count)
        for (number, handler) in handlers.enumerated() {
            names.initializeElement(at: number, to: HandlerName(handler.name))
        }
    }

    /// The handler's index in the list.
    func number(of name: HandlerName) -> Int? { names.indices.first { names[$0].equals(name) } }
}
