// SPDX-License-Identifier: Apache-2.0
//
// Any of forkserve's processes: the command line, a server's parent, its children, its workers.

import Forking
import SystemPackage

/// Prints a line on stderr, or stdout, without waiting for its reader.
func tell(_ line: String, on descriptor: FileDescriptor = .standardError) {
    Lines.tell(SocketAddress.printable(bytes: Arguments.bytes(of: line)), on: descriptor)
}
