// SPDX-License-Identifier: Apache-2.0

import Glibc
import TestSupport

/// What a service manager listens on, by which it also knows who speaks.
final class Manager {
    private let socket: Int32
    private(set) var heard: [(text: String, pid: pid_t)] = []

    private let path: String

    init(_ path: String) throws {
        self.path = path
        socket = try boundSocket("unix:\(path)", datagram: true)
        var on: Int32 = 1
        setsockopt(socket, SOL_SOCKET, SO_PASSCRED, &on, socklen_t(MemoryLayout<Int32>.size))
    }

    deinit { close(socket) }

    /// Hears on until somebody says so.
    func expect(_ text: String, from pid: pid_t) throws {
        try hear("\(text) from \(pid)") { $1 == pid && $0.split(separator: "\n").contains(Substring(text)) }
    }

    /// Hears on until `isWanted`, for a minute at most, whatever else is said meanwhile.
    func hear(_ what: String, _ isWanted: (String, pid_t) -> Bool) throws {
        let deadline = now() + 60
        while true {
            guard now() < deadline else { throw Failure("never heard \(what): \(heard)") }
            var polled = pollfd(fd: socket, events: Int16(POLLIN), revents: 0)
            guard poll(&polled, 1, 20_000) == 1 else { throw Failure("never heard \(what): \(heard)") }
            let said = Self.receive(socket)
            heard.append(said)
            if isWanted(said.text, said.pid) { return }
        }
    }

    /// Hears on by itself while `body` runs: its queue holds no more than ten lines, and who cannot say that another
    /// process is the main one does not end before long.
    func hearing(while body: () throws -> Void) throws {
        let over = try pipe()
        defer { close(over.read) }
        let listener = Listener(socket: socket, over: over.read)
        var thread = pthread_t()
        pthread_create(
            &thread, nil,
            {
                Unmanaged<Listener>.fromOpaque($0!).takeUnretainedValue().run()
                return nil
            }, Unmanaged.passUnretained(listener).toOpaque())
        defer {
            close(over.write)
            pthread_join(thread, nil)
            heard += listener.heard
        }
        try body()
    }

    private final class Listener {
        let socket: Int32
        let over: Int32
        var heard: [(text: String, pid: pid_t)] = []

        init(socket: Int32, over: Int32) {
            self.socket = socket
            self.over = over
        }

        func run() {
            while true {
                var polled = [socket, over].map { pollfd(fd: $0, events: Int16(POLLIN), revents: 0) }
                poll(&polled, 2, -1)
                if polled[0].revents != 0 { heard.append(Manager.receive(socket)) }
                if polled[1].revents != 0 { return }
            }
        }
    }

    /// Fills its queue.
    func fill() throws {
        let sender = Glibc.socket(AF_UNIX, Int32(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        defer { close(sender) }
        try withAddress("unix:\(path)") { (_, address, length) throws in
            try TestSupport.expect(connect(sender, address, length) == 0, "connect")
        }
        while send(sender, "x", 1, Int32(MSG_DONTWAIT)) == 1 {}
        try TestSupport.expect(errno == EAGAIN, "the queue does not fill")
    }

    private static func receive(_ socket: Int32) -> (text: String, pid: pid_t) {
        var (bytes, control) = ([UInt8](repeating: 0, count: 4096), [UInt8](repeating: 0, count: 256))
        return bytes.withUnsafeMutableBytes { bytes in
            control.withUnsafeMutableBytes { control in
                var piece = iovec(iov_base: bytes.baseAddress, iov_len: bytes.count)
                return withUnsafeMutablePointer(to: &piece) { piece in
                    var message = msghdr()
                    (message.msg_iov, message.msg_iovlen) = (piece, 1)
                    (message.msg_control, message.msg_controllen) = (control.baseAddress, control.count)
                    let count = recvmsg(socket, &message, 0)
                    // Behind the header, of 16 bytes, stands a ucred, whose first member is the pid.
                    let pid = control.loadUnaligned(fromByteOffset: 16, as: pid_t.self)
                    return (String(decoding: bytes.prefix(max(count, 0)), as: UTF8.self), pid)
                }
            }
        }
    }
}
