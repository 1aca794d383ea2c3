// SPDX-License-Identifier: Apache-2.0

/// The handlers' names in the form that fork requests have. Comparing strings would count references, in memory that
/// children share copy-on-write.
struct HandlerNames: BitwiseCopyable {
    private struct Name: BitwiseCopyable {
        var count = 0
        var bytes = InlineArray<64, UInt8>(repeating: 0)  // ForkRequest.longestName
    }

    private let names: UnsafeMutableBufferPointer<Name>

    init(_ handlers: [Zygote.Handlers.Entry]) {
        names = .allocate(capacity: handlers.count)
        for (number, handler) in handlers.enumerated() {
            var name = Name()
            for byte in handler.name.utf8 {
                name.bytes[name.count] = byte
                name.count += 1
            }
            names.initializeElement(at: number, to: name)
        }
    }

    /// The handler's index in the list.
    func number(of name: UnsafeBufferPointer<UInt8>) -> Int? {
        names.indices.first { number in
            let count = names[number].count
            return count == name.count && (0..<count).allSatisfy { names[number].bytes[$0] == name[$0] }
        }
    }
}
