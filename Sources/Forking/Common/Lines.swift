// SPDX-License-Identifier: Apache-2.0

import CForkCore
public import SystemPackage

/// Writes log lines without ever waiting for their reader.
///
/// A server has one thread: while it blocks in a write to a full pipe or a stopped terminal, it serves no clients and
/// does not stop. `print` and most log handlers of swift-log do block. This library writes all its own messages here.
public enum Lines {
    /// Writes one line, in a single write(2), if there is room for it. Otherwise the line is lost, and the process that
    /// lost it reports the number ("417 lines were lost") before its next line that fits.
    ///
    /// Text beyond PIPE_BUF (4096 bytes) is truncated. Characters that could end the line or control a terminal are
    /// escaped. Any process, any thread. Raises no signal: neither SIGPIPE nor SIGXFSZ, nor SIGTTOU under `stty
    /// tostop`.
    ///
    /// - Parameters:
    ///   - text: the line, without a newline.
    ///   - descriptor: a pipe, terminal, socket or file. Writing to a file takes as long as its disk.
    public static func tell(_ text: String, on descriptor: FileDescriptor = .standardError) {
        var text = SocketAddress.printable(text, atMost: longest)
        text.withUTF8 { bytes in
            bytes.withMemoryRebound(to: CChar.self) {
                _ = forkcore_tell(descriptor.rawValue, $0.baseAddress, $0.count)
            }
        }
    }

    /// More characters than fit into a line.
    private static let longest = 4096
}
