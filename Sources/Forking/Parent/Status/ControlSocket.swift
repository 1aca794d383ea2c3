// SPDX-License-Identifier: Apache-2.0

import CForkCore
import Glibc
import SystemPackage

/// A server whose status can be reported. Parent.
protocol StatusSource: AnyObject {
    /// The status without the processes.
    var outline: ServerStatus { get }
    /// Calls `body` with each process as it is now. Does not collect them first, because there can be thousands.
    func forEachProcess(_ body: (ServerStatus.Process) -> Void)
}

extension StatusSource {
    var wholeStatus: ServerStatus {
        var status = outline
        forEachProcess { status.processes.append($0) }
        status.sort()
        return status
    }
}

/// A Unix socket on which clients ask a server for its status. The server writes the status to a memory file
/// (memfd_create(2)) and sends its descriptor: so it never waits for a client, however long the status is, and whether
/// or not the client reads it. Parent.
final class ControlSocket {
    private var listener: Listener
    /// Whether the predecessor still answers on it.
    private(set) var isInherited: Bool

    var descriptor: Int32 { listener.descriptor.rawValue }

    /// - Parameter address: a Unix socket's address. Nil: opens none, and closes one that was handed over.
    static func open(on address: SocketAddress?) throws(ForkingError) -> ControlSocket? {
        let inherited = Predecessor.takeControl()
        if let inherited, try SocketAddress(boundTo: inherited) == address {
            return try ControlSocket(Listener(succeedingOn: inherited, origin: .made), isInherited: true)
        }
        if let inherited { forkcore_close(inherited) }
        guard let address else { return nil }
        var options = Listener.Options()
        options.permissions = .ownerReadWrite
        return try ControlSocket(Listener(address, options: options), isInherited: false)
    }

    private init(_ listener: consuming Listener, isInherited: Bool) {
        self.listener = listener
        self.isInherited = isInherited
    }

    /// This server answers from now on, and removes the file at its end.
    func takeOver() {
        isInherited = false
        listener.takeOver()
    }

    /// Another server answers from now on.
    func leave() { listener.leaveFile() }

    /// The maximum number of clients that are answered in one turn.
    private static let answersAtOnce = 8

    /// Answers the clients that have connected.
    ///
    /// - Throws: `ForkingError.Code.system` if a client cannot be accepted, or no memory file can be made; the clients
    ///   then wait.
    func answer(from source: some StatusSource) throws(ForkingError) {
        for _ in 0..<Self.answersAtOnce {
            // Made first: a client that was accepted with the last descriptor could not be answered.
            let file = try OwnedDescriptor("memfd_create") { forkcore_memory_file("status", $0) }
            guard let client = try listener.accept() else { return }
            // A client that is not answered sees its connection close.
            if isWelcome(client) { try? answer(client, with: file, from: source) }
        }
    }

    /// A socket's file has permissions. An abstract name has none, so only this user and root may ask there.
    private func isWelcome(_ client: borrowing Connection) -> Bool {
        guard listener.address.isAbstract else { return true }
        var pid: ProcessID = 0
        var user: uid_t = 0
        var group: gid_t = 0
        let code = forkcore_peer_credentials(client.descriptor.rawValue, &pid, &user, &group)
        return code == 0 && (user == 0 || user == geteuid())
    }

    private func answer(
        _ client: borrowing Connection, with file: borrowing OwnedDescriptor, from source: some StatusSource
    ) throws {
        var text = PiecewiseText(file.rawValue)
        source.outline.writeBeginning(to: &text.bytes)
        source.forEachProcess {
            $0.write(to: &text.bytes)
            text.writeIfFull()
        }
        ServerStatus.writeEnd(to: &text.bytes)
        try text.finish()
        try Self.handOver(file.rawValue, on: client.descriptor.rawValue)
    }

    static func handOver(_ file: Int32, on socket: Int32) throws(ForkingError) {
        try check(forkcore_hand_over(socket, file, [UInt8(0)], 1), "sendmsg")
    }
}

/// Text that is written to a file in pieces. If it were put together in memory first, a server with thousands of
/// children would keep a heap of that size, which each fork would copy.
private struct PiecewiseText {
    private static let piece = 4096

    var bytes: [UInt8] = []
    private let file: Int32
    private var failure: Int32 = 0

    init(_ file: Int32) {
        self.file = file
        bytes.reserveCapacity(2 * Self.piece)
    }

    mutating func writeIfFull() {
        if bytes.count >= Self.piece { write() }
    }

    private mutating func write() {
        if failure == 0 { failure = forkcore_write_all(file, bytes, bytes.count) }
        bytes.removeAll(keepingCapacity: true)
    }

    mutating func finish() throws(ForkingError) {
        write()
        try check(failure, "write")
    }
}
