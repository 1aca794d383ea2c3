// The time of day for each datagram (RFC 867), every answer made in a process of its own.
// Try: nc -u 127.0.0.1 1313, and press Enter.

import Forking
import Glibc

let address = try SocketAddress(parsing: "127.0.0.1:1313")
let server = try ForkingServer(datagrams: Listener(address, datagram: true)) { datagram in
    var now = time(nil)
    var text = [CChar](repeating: 0, count: 26)
    ctime_r(&now, &text)
    try datagram.reply(text.prefix { $0 != 0 }.map(UInt8.init(bitPattern:)))
}
try server.serve()
