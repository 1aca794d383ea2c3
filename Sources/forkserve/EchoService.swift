// SPDX-License-Identifier: Apache-2.0

import Forking

/// The built-in service. Child.
enum EchoService {
    /// Sends lines back until the client closes, or just the first. Lines may be of any length: what has come of one is
    /// sent back at once, so that nothing is held that a client sends without end.
    static func serve(_ connection: inout Connection, once: Bool) throws(ForkingError) {
        while true {
            let bytes = try connection.read()
            if bytes.isEmpty { return }
            guard once, let newline = bytes.firstIndex(of: UInt8(ascii: "\n")) else {
                try connection.write(bytes)
                continue
            }
            return try connection.write(Array(bytes[...newline]))
        }
    }
}
