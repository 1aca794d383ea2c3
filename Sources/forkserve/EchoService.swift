// SPDX-License-Identifier: Apache-2.0
//
// Child or worker: serves one connection or datagram. `rehearse` runs in the parent, before it serves.

import Forking
import Glibc
import SystemPackage

/// The built-in service. Child. It ends normally when the client has been silent for longer than `--io-timeout`.
enum EchoService {
    /// Sends input back as it arrives, until the client closes. So a client that sends without end uses no memory.
    static func serve(_ connection: inout Connection) throws(ForkingError) {
        do throws(ForkingError) {
            while true {
                let bytes = try connection.read()
                if bytes.isEmpty { return }
                try connection.write(bytes)
            }
        } catch let error where error.code == .timedOut {}
    }

    /// Sends the first line back, whatever its length.
    static func serveOnce(_ connection: inout Connection) throws(ForkingError) {
        do throws(ForkingError) {
            while true {
                let bytes = try connection.read()
                if bytes.isEmpty { return }
                guard let newline = bytes.firstIndex(of: UInt8(ascii: "\n")) else {
                    try connection.write(bytes)
                    continue
                }
                return try connection.write(Array(bytes[...newline]))
            }
        } catch let error where error.code == .timedOut {}
    }

    /// Sends a datagram back, if its sender has room for it.
    static func serve(_ datagram: Datagram) throws(ForkingError) {
        do throws(ForkingError) {
            try datagram.reply(datagram.bytes)
        } catch let error where error.errno == .resourceTemporarilyUnavailable {
            return
        }
    }

    /// Parent: serves one simulated client, so that children have the pages and tables that this needs.
    static func rehearse() {
        var ends: (Int32, Int32) = (-1, -1)
        let made = withUnsafeMutableBytes(of: &ends) {
            socketpair(AF_UNIX, Int32(SOCK_STREAM.rawValue), 0, $0.assumingMemoryBound(to: Int32.self).baseAddress)
        }
        guard made == 0, let nobody = try? SocketAddress(unix: "@rehearsal") else { return }
        let client = Connection(FileDescriptor(rawValue: ends.0), peer: nobody)
        var server = Connection(FileDescriptor(rawValue: ends.1), peer: nobody)
        try? client.write("hello\n")
        client.finishWriting()
        try? serve(&server)
    }
}
