// SPDX-License-Identifier: Apache-2.0

import CForkCore
public import SystemPackage

/// A program's own lines, written so that it never waits for whoever reads them.
///
/// A server has one thread: while it stands in a write to a pipe that nobody empties, or to a stopped terminal, it
/// serves nobody, and stops for nobody. `print`, and most handlers of swift-log's, do wait. All that this library says
/// by itself is said here.
public enum Lines {
    /// Writes one line, in one write, if there is room for it. What does not fit is lost, and counted by the process
    /// that wrote it; the number ("417 lines were lost") is told before its next line that fits.
    ///
    /// What is longer than PIPE_BUF (4096 bytes) is cut. Characters that could end the line, or steer a terminal, are
    /// spelled out. Any process and thread; it raises no signal: neither SIGPIPE nor SIGXFSZ, nor SIGTTOU under `stty
    /// tostop`.
    ///
    /// - Parameters:
    ///   - text: the line, without a newline.
    ///   - descriptor: a pipe, a terminal, a socket, a file; the latter takes as long as its disk.
    public static func tell(_ text: String, on descriptor: FileDescriptor = .standardError) {
        var text = SocketAddress.printable(text, atMost: longest)
        text.withUTF8 { bytes in
            bytes.withMemoryRebound(to: CChar.self) {
                _ = forkcore_tell(descriptor.rawValue, $0.baseAddress, $0.count)
            }
        }
    }

    /// More than fits into a line.
    private static let longest = 4096
}
