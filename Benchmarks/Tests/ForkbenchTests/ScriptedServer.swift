// SPDX-License-Identifier: Apache-2.0

import Glibc
import Synchronization
import TestSupport

/// A server that answers each request as it is told, one connection at a time, so that it is known what a load
/// generator has to report.
final class ScriptedServer: Sendable {
    /// What is done with a request. A request that is not answered ends the connection.
    enum Step: Sendable {
        /// In pieces, each sent by itself; the connection is kept.
        case answer([String])
        /// The same, and then the connection is closed.
        case answerAndClose([String])
        case close
        case reset
    }

    let address: String
    /// The requests' first lines, in the order in which they came.
    let requests = Mutex<[String]>([])
    private let listener: Int32
    private let steps: Mutex<[Step]>
    private let thread = Mutex<pthread_t?>(nil)

    /// The last step is that of all requests from then on.
    init(_ steps: [Step]) throws {
        self.steps = Mutex(steps)
        listener = socket(AF_INET, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        address = try withAddress("127.0.0.1:0") { [listener] _, pointer, length in
            guard bind(listener, pointer, length) == 0, listen(listener, 64) == 0 else {
                throw Failure("listen: \(String(cString: strerror(errno)))")
            }
            var bound = sockaddr_in(), size = socklen_t(MemoryLayout<sockaddr_in>.size)
            withUnsafeMutablePointer(to: &bound) {
                $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { _ = getsockname(listener, $0, &size) }
            }
            return "127.0.0.1:\(UInt16(bigEndian: bound.sin_port))"
        }
        var started = pthread_t()
        pthread_create(
            &started, nil,
            { context in
                Unmanaged<ScriptedServer>.fromOpaque(context!).takeRetainedValue().serve()
                return nil
            }, Unmanaged.passRetained(self).toOpaque())
        thread.withLock { $0 = started }
    }

    /// Must be called in the end: no thread and no descriptor is left then.
    func stop() {
        shutdown(listener, Int32(SHUT_RDWR))
        if let thread = thread.withLock({ $0 }) { pthread_join(thread, nil) }
        close(listener)
    }

    // MARK: The server's thread

    private func serve() {
        while case let client = accept(listener, nil, nil), client >= 0 {
            var yes: Int32 = 1  // or the second of two pieces waits for the first one's acknowledgement
            setsockopt(client, Int32(IPPROTO_TCP), TCP_NODELAY, &yes, socklen_t(MemoryLayout<Int32>.size))
            while let request = request(on: client), follow(request, client) {}
            close(client)
        }
    }

    private func request(on client: Int32) -> String? {
        var text = ""
        while !text.hasSuffix("\r\n\r\n") {
            var bytes = [UInt8](repeating: 0, count: 4096)
            let count = recv(client, &bytes, bytes.count, 0)
            guard count > 0 else { return nil }
            text += String(decoding: bytes.prefix(count), as: UTF8.self)
        }
        return text
    }

    /// - Returns: whether the connection is kept.
    private func follow(_ request: String, _ client: Int32) -> Bool {
        requests.withLock { $0.append(String(request.prefix { $0 != "\r\n" })) }
        switch steps.withLock({ $0.count > 1 ? $0.removeFirst() : $0[0] }) {
        case .answer(let pieces):
            for piece in pieces { send(client, piece, piece.utf8.count, Int32(MSG_NOSIGNAL)) }
            return true
        case .answerAndClose(let pieces):
            for piece in pieces { send(client, piece, piece.utf8.count, Int32(MSG_NOSIGNAL)) }
            return false
        case .close:
            return false
        case .reset:
            var linger = linger(l_onoff: 1, l_linger: 0)
            setsockopt(client, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<Glibc.linger>.size))
            return false
        }
    }
}
